"""The verdict of a sweep: a comparison in words, as tables, and as files of the workdir.

verdict.md    the answer in one sentence, warnings, the chosen settings, and all pairs
verdict.csv   a row for each pair
verdict.tex   the chosen settings as a LaTeX table, with the best figures in bold
"""

import math
from pathlib import Path

from experiments.common import comparison as comparisons
from experiments.common import files, options, results, tables
from experiments.common.comparison import VALIDATION, Candidate, Choice, Comparison, Pair, words

NOTE = (
    "± after a difference is its 95 % interval over seeds (Student's t, paired), and ± after a mean is one standard"
    " error. Pairs are told apart at a level of 5 % for all pairs together (Holm's correction)."
)
# The warnings name the seeds needed for so many pairs.
MOST_NEEDS = 6


def write(workdir: Path, comparison: Comparison) -> str:
    """Writes the files, and returns the text of verdict.md."""
    parts = [
        "\n".join(sentences(comparison)),
        tables.to_markdown(table(comparison)),
        tables.to_markdown(pairs(comparison)),
        NOTE,
    ]
    text = "\n\n".join(parts) + "\n"
    files.write_text(workdir / "verdict.md", text)
    rows = [pair._asdict() | {"told_apart": pair.is_told_apart} for pair in comparison.pairs]
    files.write_text(workdir / "verdict.csv", tables.to_csv(rows))
    header, *lines = table(comparison)
    if comparison.setting == "estimator":
        lines = [[options.paper_name(line[0]), *line[1:]] for line in lines]
    best = {(1, len(header) - 1)}  # the lines are sorted by the last column
    latex = tables.to_latex([[title.replace("_", " ") for title in header], *lines], answer(comparison), best)
    files.write_text(workdir / "verdict.tex", latex + "\n")
    return text


def sentences(comparison: Comparison) -> list[str]:
    """The answer in one sentence, followed by warnings."""
    return [answer(comparison), *warnings(comparison)]


def answer(comparison: Comparison) -> str:
    """Which value is best, by how much, and which values are not told apart."""
    best = next(choice.value for choice in comparison.choices if choice.chosen)
    with_best = [pair for pair in comparison.pairs if best in (pair.better, pair.worse)]
    apart = [pair for pair in with_best if pair.is_told_apart and pair.better == best]
    level = [_other(pair, best) for pair in with_best if pair not in apart]
    parts = []
    if apart:
        differences = [f"{_difference(pair)} above {pair.worse}" for pair in apart]
        parts.append(f"{best} ends {words(differences)}")
    if level:
        subject = "it" if apart else f"{best} has the best mean, and"
        parts.append(f"{subject} is not told apart from {words(level)}")
    rest = [pair for pair in comparison.pairs if pair not in with_best]
    unclear = [f"{pair.better} and {pair.worse}" for pair in rest if not pair.is_told_apart]
    if rest and not unclear:
        parts.append("all other pairs are told apart")
    elif len(unclear) == 1:
        parts.append(f"{unclear[0]} are not told apart")
    elif unclear and len(unclear) <= 3:
        parts.append(f"not told apart are {', '.join(unclear[:-1])}, and {unclear[-1]}")
    elif unclear:
        parts.append(f"{len(unclear)} of the other {len(rest)} pairs are not told apart")
    return "; ".join(parts)


def warnings(comparison: Comparison) -> list[str]:
    """What weakens the answer: diverged runs, the edge of the grid, unequal numbers of candidates, too few seeds."""
    chosen = [choice for choice in comparison.choices if choice.chosen]
    lines = []
    for choice in comparison.choices:
        diverged = [candidate for candidate in choice.candidates if candidate.diverged]
        if choice.chosen is None:
            lines.append(f"{choice.value} is not compared, because runs diverged with every other setting")
        elif diverged:
            named = words(_described(candidate) for candidate in diverged)
            lines.append(f"{choice.value}: runs diverged at {named}, which cannot be chosen")
    edges: dict[str, list[str]] = {}
    for choice in chosen:
        for name in choice.at_edge:
            edges.setdefault(f"{name}={choice.chosen.settings[name]}", []).append(choice.value)
    for place, values in edges.items():
        verb = "is" if len(values) == 1 else "are"
        lines.append(f"{words(values)} {verb} best at {place}, the edge of the grid; try values beyond it")
    if len({len(choice.candidates) for choice in chosen}) > 1:
        counts = words(f"{choice.value} {len(choice.candidates)}" for choice in chosen)
        lines.append(f"unequal numbers of candidates favour the value with more of them: {counts}")
    if single := [pair for pair in comparison.pairs if pair.seeds < 2]:
        lines.append(
            f"{len(single)} of {len(comparison.pairs)} pairs have fewer than two common seeds and no interval;"
            " give --seed=0,1,2,3,4"
        )
    unclear = [pair for pair in comparison.pairs if pair.seeds > 1 and not pair.is_told_apart]
    for pair in unclear[:MOST_NEEDS]:
        needed = f"about {pair.seeds_needed}" if pair.seeds_needed else f"more than {comparisons.MOST_SEEDS}"
        lines.append(
            f"{pair.better} and {pair.worse}: to tell a difference of {pair.difference:.2f} nats apart would take"
            f" {needed} seeds"
        )
    return lines


def table(comparison: Comparison) -> list[list[str]]:
    """A header, and a line for each value: the chosen settings and the figures of its runs."""
    titles = {VALIDATION: "validation ELBO"} | results.FIGURES
    figures = [VALIDATION] * all(_has_validation(choice) for choice in comparison.choices) + [comparison.figure]
    names = list(next(choice.chosen.settings for choice in comparison.choices if choice.chosen))
    lines = [[comparison.setting, *names, "seeds", *(titles[figure] for figure in figures)]]
    for choice in comparison.choices:
        if choice.chosen:
            settings = [str(choice.chosen.settings[name]) for name in names]
            means = [_plus_minus(*choice.chosen.mean(figure)) for figure in figures]
            lines.append([choice.value, *settings, str(len(choice.chosen.rows)), *means])
    return lines


def pairs(comparison: Comparison) -> list[list[str]]:
    """A header, and a line for each pair of values."""
    lines = [["better", "worse", "difference, nats", "seeds", "p (Holm)", "told apart"]]
    for pair in comparison.pairs:
        p = "-" if math.isnan(pair.p_value) else tables.number(pair.p_value, 2)
        told = "-" if math.isnan(pair.p_value) else "yes" if pair.is_told_apart else "no"
        difference = _plus_minus(pair.difference, pair.half_width)
        lines.append([pair.better, pair.worse, difference, str(pair.seeds), p, told])
    return lines


def _has_validation(choice: Choice) -> bool:
    return choice.chosen is None or all(VALIDATION in row for row in choice.chosen.rows.values())


def _described(candidate: Candidate) -> str:
    return " ".join(f"{name}={value}" for name, value in candidate.settings.items()) or "this setting"


def _difference(pair: Pair) -> str:
    return f"{_plus_minus(pair.difference, pair.half_width)} nats"


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def _other(pair: Pair, value: str) -> str:
    return pair.worse if pair.better == value else pair.better
