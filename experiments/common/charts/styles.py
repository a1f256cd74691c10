"""The look and the title of each estimator, which are the same in all figures: a colour for its family, a marker and a
dash of its own, and the name that papers give it."""

import re
from collections import Counter
from collections.abc import Iterable

from experiments.common import grammar, results
from vae import estimators

# The families of estimators. The first family has the first colour. The last colour, black, is
# also that of estimators in no family.
FAMILIES = (
    (
        *("reparam", "stl", "dreg", "reparam_antithetic", "reparam_rqmc", "reparam_linear_cv", "measure_valued"),
        "wake_sleep_dreg",
    ),
    ("reinforce", "leave_one_out", "nvil", "vimco", "reinforce_ema", "wake_sleep", "vimco_star", "ovis"),
    (
        *("gumbel_softmax", "reinmax", "straight_through", "st_gumbel_softmax", "gumbel_rao"),
        *("gapped_st", "reinmax_rao", "generalized_st"),
    ),
    ("relax", "rebar", "muprop", "double_cv", "rodeo", "eat", "mlmc", "sumo"),
    ("disarm", "arms", "arm", "disarm_iw", "carms", "arsm"),
    ("exact", "local_expectation", "bitflip", "rao_blackwell_top_k", "unordered_set", "auto", "gdreg"),
    ("vq_straight_through", "rotation", "diveq", "nsvq"),
)
NUMBER_OF_COLOURS = 7
# Styles with so many turns or more have markers that follow the turn alone. The number is a multiple of the numbers of
# dashes and of markers, 6 and 8, so that the first of these styles has the first dash and the first marker.
SETTINGS_TURN = 24
_STYLES = {
    name: colour + NUMBER_OF_COLOURS * place
    for colour, family in enumerate(FAMILIES)
    for place, name in enumerate(family)
}


_FAMILY_COLOUR = {name: style % NUMBER_OF_COLOURS for name, style in _STYLES.items()}


def styles(labels: Iterable[str], own_colours: bool = False) -> dict[str, int]:
    """The style of each label. A label may name an estimator between other settings: "elbo, stl, learning_rate=0.01".

    If each estimator has one label, it has the look of its own, and the estimators that are in no family have colours
    that are still free. Otherwise the labels of an estimator share a colour, and their dashes and markers follow the
    other settings. If no label names an estimator of the table, the looks are given out in order.

    Args:
      own_colours: Whether each estimator has a colour of its own although it has one label: the colour that it has in a
        figure of the same estimators with several labels.
    """
    labels = list(dict.fromkeys(labels))
    split = {label: _split(label) for label in labels}
    order = {name: place for place, name in enumerate(estimators.BY_NAME)}
    names = sorted(dict.fromkeys(name for name, _ in split.values()), key=lambda name: order.get(name, len(order)))
    if not set(names) & set(order):
        return {label: style for style, label in enumerate(labels)}
    if len(names) == len(labels) and not own_colours:
        looks = {name: _STYLES[name] for name in names if name in _STYLES}
        for name, colour in _colours(names, {name: _FAMILY_COLOUR[name] for name in looks}).items():
            style = colour
            while name not in looks and style in looks.values():
                style += NUMBER_OF_COLOURS
            looks.setdefault(name, style)
        return {label: looks[split[label][0]] for label in labels}
    colours = _colours(names, {})
    rests = sorted({rest for _, rest in split.values()})
    same = {name: [other for other in names if colours[other] == colours[name]].index(name) for name in names}
    first = SETTINGS_TURN if len(labels) > len(names) else 0
    turn = lambda name, rest: first + rests.index(rest) + len(rests) * same[name]
    return {label: colours[name] + NUMBER_OF_COLOURS * turn(name, rest) for label, (name, rest) in split.items()}


def numbers(style: int) -> tuple[int, int, int]:
    """The numbers of the style's colour, dash and marker. A renderer begins again when it has no more of them."""
    turn, colour = divmod(style, NUMBER_OF_COLOURS)
    return colour, turn, turn if turn >= SETTINGS_TURN else colour + turn


def paper_label(label: str, star: bool = False) -> str:
    """The label with the name that papers give to its estimator: "RLOO, learning_rate=0.01".

    Args:
      star: Whether an estimator that its paper calls biased has a star: "ReinMax *, learning_rate=0.01".
    """
    name = lambda part: grammar.paper_name(part) + " *" * (star and results.is_biased(part))
    return ", ".join(name(part) if _estimator(part) else part for part in label.split(", "))


def _colours(names: list[str], given: dict[str, int]) -> dict[str, int]:
    """A colour for each name: its family's or black if that is free, and otherwise the colour that is used least."""
    colours = dict(given)
    for name in names:
        wanted = _FAMILY_COLOUR.get(name, NUMBER_OF_COLOURS - 1)
        if name not in colours and wanted not in colours.values():
            colours[name] = wanted
    for name in names:
        if name not in colours:
            colours[name] = min(range(NUMBER_OF_COLOURS), key=Counter(colours.values()).__getitem__)
    return colours


def _split(label: str) -> tuple[str, str]:
    """The name of the label's estimator, or else its first word, and the rest of the label."""
    name = next(filter(None, map(_estimator, label.split(", "))), None) or re.match(r"\w*", label)[0]
    return name, label.replace(name, "", 1)


def _estimator(part: str) -> str | None:
    """The name in a part of a label, if the part is an estimator of the table with or without options."""
    try:
        choice = grammar.parse(part)
    except ValueError:
        return None
    return choice.name if all(each.name in estimators.BY_NAME for each in choice.blocks or (choice,)) else None
