"""The look of each estimator, which is the same in all figures: a colour for its family, and a marker and dash of its
own."""

import re
from collections.abc import Iterable

# The families of estimators. The first family has the first colour; an estimator that is in no family has the last.
FAMILIES = (
    (
        *("reparam", "stl", "dreg", "reparam_antithetic", "reparam_rqmc", "reparam_linear_cv", "measure_valued"),
        "wake_sleep_dreg",
    ),
    ("reinforce", "leave_one_out", "nvil", "vimco", "reinforce_ema", "wake_sleep", "vimco_star", "ovis"),
    ("gumbel_softmax", "reinmax", "straight_through", "st_gumbel_softmax", "gumbel_rao"),
    ("relax", "rebar", "muprop", "double_cv", "rodeo"),
    ("disarm", "arms", "arm", "disarm_iw"),
    ("exact", "local_expectation", "bitflip", "rao_blackwell_top_k", "unordered_set"),
)
NUMBER_OF_COLOURS = 7
_STYLES = {
    name: colour + NUMBER_OF_COLOURS * place
    for colour, family in enumerate(FAMILIES)
    for place, name in enumerate(family)
}


def styles(labels: Iterable[str]) -> dict[str, int]:
    """The style of each label. A label may begin with the name of an estimator, as in "stl, learning_rate=0.01".

    An estimator has its own look if no two labels name the same estimator. Otherwise, and for other labels, the looks
    are given out in order.
    """
    labels = list(dict.fromkeys(labels))
    names = [re.match(r"\w*", label)[0] for label in labels]
    if not set(names) & set(_STYLES) or len(set(names)) < len(names):
        return {label: style for style, label in enumerate(labels)}
    own = [name for name in names if name not in _STYLES]
    black = {name: NUMBER_OF_COLOURS * (place + 1) - 1 for place, name in enumerate(own)}
    return {label: (_STYLES | black)[name] for label, name in zip(labels, names, strict=True)}
