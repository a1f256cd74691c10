"""Tables of finished runs: one row for each run with every setting, and one row for all seeds of a setting."""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from experiments.common import grammar, tables
from experiments.common.settings import FIELDS
from vae import estimators


class Figure(NamedTuple):
    """A column of the tables of finished runs.

    Attributes:
      title: The head of the column.
      meaning: What the page of a work directory says about the figure.
      sign: 1 if the largest value is the best, -1 if the smallest is, and 0 if no value is the best.
      digits: The number of digits after the point.
    """

    title: str
    meaning: str
    sign: int = 0
    digits: int = 2


_OF_AVERAGE = "the same figure of the exponential moving average of the parameters (--ema)."
# The figures of a finished run.
FIGURES = {
    "validation_elbo_nats": Figure(
        "validation ELBO", "the ELBO of the validation split, by which settings are chosen. Higher is better.", sign=1
    ),
    "test_nll_nats": Figure(
        "-log p(x)",
        "minus the bound L_K of K importance weights, which rises with K towards log p(x). Lower is better at equal K.",
        sign=-1,
    ),
    "test_elbo_nats": Figure(
        "ELBO",
        "the evidence lower bound, -(rate + distortion); below log p(x) by KL(q(z|x) || p(z|x)). Higher is better.",
        sign=1,
    ),
    "test_rate_nats": Figure(
        "rate", "KL(q(z|x) || p(z)), the information about an image in its latent variables. At 0 they are unused."
    ),
    "test_distortion_nats": Figure(
        "distortion", "the mean of -log p(x|z) under q(z|x), the error of the reconstruction."
    ),
    "test_bits_per_dim": Figure(
        "bits/dim",
        "-log p(x) in bits for each pixel and channel of grey levels or counts. Lower is better.",
        sign=-1,
        digits=3,
    ),
    "active_units": Figure(
        "active units",
        "latent variables whose posterior mean varies between images (variance above 0.01). The others are unused.",
        digits=1,
    ),
    "test_ess_share": Figure(
        "ESS / K", "the effective sample size of the K importance weights as a share of K. Higher is better."
    ),
    "test_heavy_tail_share": Figure(
        "Pareto k > 0.7", "the share of images whose weights have too heavy a tail for K samples (Pareto k > 0.7)."
    ),
    "codes_used": Figure(
        "codes used", "codes of a quantizer that the images use at least once, in any position.", digits=1
    ),
    "code_perplexity": Figure(
        "code perplexity",
        "the exponential of the entropy of the codes' frequencies: the number of codes if all are used alike.",
        digits=1,
    ),
    "ema_test_nll_nats": Figure("-log p(x), EMA", _OF_AVERAGE, sign=-1),
    "ema_test_elbo_nats": Figure("ELBO, EMA", _OF_AVERAGE, sign=1),
}
# The figures of `experiments.evaluate --ais_steps`, of some test images and as many simulated ones, with their titles.
ANNEALED = {
    "ais_test_iw_nats": "test: L_K",
    "ais_test_lower_nats": "test: AIS",
    "ais_simulated_iw_nats": "simulated: L_K",
    "ais_simulated_lower_nats": "simulated: AIS",
    "ais_simulated_upper_nats": "simulated: upper bound",
    "ais_gap_nats": "BDMC gap",
    "ais_ess_share": "ESS / chains",
    "ais_acceptance": "acceptance",
}
# The figures by which rows may be ranked, with the words of the heading.
RANKINGS = {
    "validation_elbo_nats": "validation bound",
    "test_nll_nats": "test set's -log p(x)",
    "test_elbo_nats": "test set's ELBO (the runs have -log p(x) for different K)",
}

# The cost of a training step.
COSTS = {
    "step_evaluations": Figure(
        "evaluations a step", "evaluations of the integrand f for each image in a training step."
    ),
    "step_flops": Figure("FLOP a step", "floating-point operations of a training step."),
}
# Counts of the runs of a row.
COUNTS = {"runs": "runs", "diverged": "diverged"}

# The meaning of the stars of `starred`.
ABOUT_STARS = "* marks estimators that are biased according to their papers."

Row = dict[str, Any]
Run = TypeVar("Run")


def varying(rows: list[Row]) -> list[str]:
    """The names of the settings in which the rows differ, without the seed; also "workdir", if it differs."""
    names = [name for name in (*FIELDS, "workdir") if name != "seed"]
    return [name for name in names if len({str(row.get(name)) for row in rows}) > 1]


def label(row: Row, names: list[str]) -> str:
    """The settings of a row that distinguish it from other rows; `names` are the settings in which the rows differ."""
    if not names:
        return f"{row['dataset']}, {row['estimator']}"
    needs_no_name = ("estimator", "objective") if len(names) > 1 else ("workdir", *FIELDS)
    return ", ".join(
        str(row[name]) if name in needs_no_name and isinstance(row[name], str) else f"{name}={row[name]}"
        for name in names
    )


def aggregate(rows: list[Row], names: list[str] | None = None) -> list[Row]:
    """One row for all seeds of a setting, with means and (in columns that end in `_se`) standard errors.

    The best setting is first, by the figure of `ranked_by`.

    Args:
      names: The names of the settings that distinguish rows; by default all that vary.
    """
    return [mean for mean, _ in group(rows, varying(rows) if names is None else names)]


def group(
    runs: list[Run], names: list[str], row_of: Callable[[Run], Row] = lambda row: row
) -> list[tuple[Row, list[Run]]]:
    """For each setting its row of `aggregate` and its runs, in the order of `aggregate`.

    Args:
      names: The names of the settings that distinguish rows.
      row_of: The row of a run.
    """
    settings: dict[tuple, list[Run]] = {}
    for run in runs:
        settings.setdefault(tuple(str(row_of(run)[name]) for name in names), []).append(run)
    groups = [(_mean_row(list(map(row_of, members)), names), members) for members in settings.values()]
    key = ranked_by([mean for mean, _ in groups])
    return sorted(groups, key=lambda pair: _best_first(pair[0], key))


def _mean_row(members: list[Row], names: list[str]) -> Row:
    """The row of all seeds of one setting."""
    finished = [member for member in members if member["status"] == "done"]
    row = {name: members[0][name] for name in names}
    row |= {"runs": len(members), "diverged": len(members) - len(finished)}
    for key in [*FIGURES, *ANNEALED]:
        values = [member[key] for member in finished if member.get(key) is not None]
        if values:
            row[key], row[f"{key}_se"] = mean_and_error(values)
    for key in COSTS:
        if finished and key in finished[0]:
            row[key] = statistics.fmean(member[key] for member in finished)
    depths = {member.get("active_units_by_layer", "").count("+") for member in finished}
    if len(depths) == 1 and 0 not in depths:
        row["active_units_by_layer"] = units(finished)
    return row


def _best_first(row: Row, key: str) -> tuple[bool, float]:
    """A sort key by the figure `key`: the least -log p(x) or the largest ELBO first, and missing figures last."""
    return least_first(-FIGURES[key].sign * row.get(key, math.nan))


def least_first(value: float) -> tuple[bool, float]:
    """A sort key that puts NaN last; a plain sort leaves NaN anywhere."""
    return math.isnan(value), value


def units(rows: list[Row]) -> str:
    """The active units of each stochastic layer, from the image up, as means over rows with equally many layers."""
    by_row = [str(row.get("active_units_by_layer", row["active_units"])).split("+") for row in rows]
    return "+".join(f"{statistics.fmean(map(float, layer)):.0f}" for layer in zip(*by_row, strict=True))


def ranked_by(rows: list[Row]) -> str:
    """The first of `RANKINGS` that all finished rows of `aggregate` have and that can be compared between them."""
    finished = [row for row in rows if "test_nll_nats" in row]
    if finished and all("validation_elbo_nats" in row for row in finished):
        return "validation_elbo_nats"
    several_k = len({row.get("eval_samples") for row in finished}) > 1
    return "test_elbo_nats" if several_k else "test_nll_nats"


def best(rows: list[Row]) -> int:
    """The index of the best of these rows of single runs, all of them finished; the first of equals."""
    key = ranked_by(rows)
    return min(range(len(rows)), key=lambda i: _best_first(rows[i], key))


def most_accurate(evaluations: list[Row]) -> Row:
    """The evaluation with the most samples; the last of those with as many."""
    return max(reversed(evaluations), key=lambda row: row["eval_samples"])


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error. The error of one value, or of values that are not all finite, is NaN."""
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values), math.nan
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def seconds_at(rows: list[dict[str, Any]], seconds: dict[int, float]) -> list[float] | None:
    """The seconds of training at each evaluation; None if there are no rows or no recorded times."""
    epochs = [row["epoch"] for row in rows]
    return [seconds[epoch] for epoch in epochs] if epochs and set(epochs) <= set(seconds) else None


def heading(rows: list[Row]) -> str:
    """The title of the table of these rows, in one line."""
    means = aggregate(rows)
    values_of = lambda name: ", ".join(sorted({row[name] for row in rows}))
    binarization = values_of("binarization").replace("none", "no")
    data = f"{values_of('dataset')}, {binarization} binarization, test set, nats per image"
    count = f"{len(rows)} run{'s' * (len(rows) > 1)}"
    order = f", best first by the {RANKINGS[ranked_by(means)]}" if len(means) > 1 else ""
    spread = "; mean ± standard error over seeds" if any(row["runs"] > 1 for row in means) else ""
    return f"{data}: {count}{order}{spread}"


def to_markdown(rows: list[Row], columns: list[str] | None = None) -> str:
    """The aggregate as a table with aligned columns, which also reads well on a terminal.

    Args:
      columns: The names of the columns; by default all settings that vary, and all figures.
    """
    means = _means(rows)
    titles = _titles(rows, means, columns)
    return tables.to_markdown([list(titles.values()), *([starred(row, key) for key in titles] for row in means)])


def to_latex(rows: list[Row], columns: list[str] | None = None) -> str:
    """The aggregate as a LaTeX table, with the best figures in bold and with estimators as papers name them.

    The columns are those of `to_markdown`. Figures that have no best value, such as the rate, are not in bold.
    """
    means = _means(rows)
    titles = _titles(rows, means, columns)
    table = [[title.replace("_", " ") for title in titles.values()]]
    for row in means:
        named = row | ({"estimator": grammar.paper_name(row["estimator"])} if "estimator" in row else {})
        table.append([starred(row, key, named) for key in titles])
    has_stars = "estimator" in titles and any(is_biased(row["estimator"]) for row in means)
    caption = f"{heading(rows)}. Bold: the best mean of a column." + f" {ABOUT_STARS}" * has_stars
    signs = {key: figure.sign for key, figure in FIGURES.items() if figure.sign}
    return tables.to_latex(table, caption, tables.best_places(means, list(titles), signs))


def _means(rows: list[Row]) -> list[Row]:
    """The aggregate; its rows also have the settings that all rows share."""
    shared = {name: rows[0][name] for name in FIELDS if name not in ("seed", *varying(rows)) and name in rows[0]}
    return [shared | row for row in aggregate(rows)]


def check_columns(columns: list[str]) -> None:
    """Refuses names that are no columns of a table of results.

    Raises:
      ValueError: If there is such a name.
    """
    settings = [name for name in FIELDS if name != "seed"]
    figures = [*COUNTS, *COSTS, *FIGURES]
    advice = f"choose settings or {', '.join(figures)}; a line is the mean over seeds, so it has no seed"
    tables.check_columns(columns, [*settings, *figures], advice)


def _titles(rows: list[Row], means: list[Row], columns: list[str] | None) -> dict[str, str]:
    """The keys of the columns of `means`, each with its title."""
    figures = {key: figure.title for key, figure in FIGURES.items() if any(key in row for row in means)}
    samples = {row["eval_samples"] for row in rows}
    if "test_nll_nats" in figures and len(samples) == 1:
        figures["test_nll_nats"] += f" (K={samples.pop()})"
    titles = {name: name for name in varying(rows)}
    if any(row["runs"] > 1 for row in means):
        titles["runs"] = "runs"
    costs = {key: cost.title for key, cost in COSTS.items()}
    titles |= {key: title for key, title in costs.items() if all(key in row for row in means)}
    titles |= figures
    if any(row["diverged"] for row in means):
        titles["diverged"] = "diverged"
    if columns is None:
        return titles
    return {name: (COUNTS | costs | figures | ANNEALED).get(name, name) for name in columns}


def starred(row: Row, key: str, named: Row | None = None) -> str:
    """The text of a cell. The name of an estimator whose paper calls it biased has a star."""
    text = cell(named or row, key)
    return f"{text} *" if key == "estimator" and key in row and is_biased(row[key]) else text


def is_biased(estimator: str) -> bool:
    """Whether the paper of an estimator, which may have options, calls it biased; False for unknown estimators."""
    choice = grammar.parse(estimator)
    entries = [estimators.BY_NAME.get(each.name) for each in choice.blocks or (choice,)]
    return any(entry is not None and entry.biased for entry in entries)


def cell(row: Row, key: str) -> str:
    """A value of a row of `aggregate` as text: a figure with its standard error, anything else as it is."""
    value = row.get(key)
    if value is None:
        return "-"
    if key in COSTS:
        return tables.number(value) if key == "step_flops" else f"{value:g}"
    if key not in FIGURES | ANNEALED:
        return str(value)
    digits = FIGURES[key].digits if key in FIGURES else 2
    text = tables.with_error(value, row.get(f"{key}_se", math.nan), digits)
    layers = row.get("active_units_by_layer") if key == "active_units" else None
    return f"{text} ({layers})" if layers else text
