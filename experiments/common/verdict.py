"""The verdict of a sweep: a comparison in words, as tables, and as files of the workdir.

verdict.md    the answer in one sentence, warnings, the chosen settings, and all pairs
verdict.csv   a row for each pair
verdict.tex   two LaTeX tables, with estimators as papers name them: the chosen settings, and all pairs
"""

import math
from pathlib import Path

from experiments.common import comparison as comparisons
from experiments.common import files, grammar, provenance, results, tables
from experiments.common.comparison import CODE, LATE_GAIN, VALIDATION, Candidate, Choice, Comparison, Pair, words

ERROR = "± after a mean is one standard error over seeds."
BOLD = "Bold: the best value, and those that are not told apart from it."
LEVEL = (
    "An interval is of one pair alone (95 %, Student's t over paired seeds), but pairs are told apart at 5 % for all"
    " pairs together (p after Holm's correction)."
)
# The words for a test figure and for a better value of it.
FIGURES = {"test_nll_nats": ("test -log p(x)", "lower", "lowest"), "test_elbo_nats": ("test ELBO", "higher", "highest")}
# The values of these settings stand for themselves; other values need the name of the setting.
SPEAKING = ("estimator", "objective", "workdir")
# The answer has intervals for so many pairs, and the warnings name so many pairs.
MOST_INTERVALS = 3
MOST_PAIRS = 6
# A difference below this, in nats, matters to nobody.
NEGLIGIBLE = 0.05
# The latent variables are hardly used if the mean rate (nats) or the mean number of active units is below this.
LEAST_RATE = 0.1
LEAST_UNITS = 1.0


def write(workdir: Path, comparison: Comparison) -> str:
    """Writes the files, and returns the text of verdict.md."""
    parts = [
        answer(comparison),
        "\n".join(f"- {warning}" for warning in warnings(comparison)),
        tables.to_markdown(table(comparison)),
        tables.to_markdown(pairs(comparison)),
        note(comparison),
    ]
    text = "\n\n".join(filter(None, parts)) + "\n"
    files.write_text(workdir / "verdict.md", text)
    rows = [pair._asdict() | {"told_apart": pair.is_told_apart} for pair in comparison.pairs]
    files.write_text(workdir / "verdict.csv", tables.to_csv(rows))
    files.write_text(workdir / "verdict.tex", to_latex(comparison))
    return text


def to_latex(comparison: Comparison) -> str:
    """The chosen settings and the pairs as two LaTeX tables, whose captions say everything that a reader needs."""
    chosen = table(comparison, paper=True)
    figure, _, _ = FIGURES[comparison.figure]
    best, *others = (choice.value for choice in comparison.choices if choice.chosen)
    worse = [pair.worse for pair in comparison.pairs if pair.better == best and pair.is_told_apart]
    bold = {(line, len(chosen[0]) - 1) for line, value in enumerate([best, *others], 1) if value not in worse}
    bias = _about_bias(comparison)
    titles = [
        f"{answer(comparison, paper=True)}. {BOLD} {ERROR}{bias}",
        f"Differences of the {figure} between pairs; {conditions(comparison, paper=True)}. {LEVEL}{bias}",
    ]
    parts = [
        tables.to_latex(chosen, titles[0], bold),
        tables.to_latex(pairs(comparison, paper=True), titles[1], text_columns=2),
    ]
    return "\n\n".join(parts) + "\n"


def note(comparison: Comparison) -> str:
    """What the intervals, the errors and the stars of the tables mean."""
    return f"{LEVEL} {ERROR}{_about_bias(comparison)}"


def answer(comparison: Comparison, paper: bool = False) -> str:
    """Which value is best, by how much, which values are not told apart, and on which data.

    Args:
      paper: Whether estimators have their papers' names.
    """
    figure, comparative, superlative = FIGURES[comparison.figure]
    name = lambda value: _name(comparison, value, paper) + "*" * _is_biased(comparison, value)
    chosen = {choice.value: choice.chosen for choice in comparison.choices if choice.chosen}
    at = lambda value: name(value) + _at(chosen[value], paper)
    best = next(iter(chosen))
    with_best = [pair for pair in comparison.pairs if best in (pair.better, pair.worse)]
    apart = [pair for pair in with_best if pair.is_told_apart and pair.better == best]
    level = [name(_other(pair, best)) for pair in with_best if pair not in apart]
    parts = []
    if apart:
        first, *others = [f"than {at(pair.worse)} ({_evidence(pair)})" for pair in apart[:MOST_INTERVALS]]
        leads = [f"{apart[0].difference:.2f} nats {comparative} {figure} {first}"]
        leads += [
            f"{pair.difference:.2f} nats {comparative} {other}" for pair, other in zip(apart[1:], others, strict=False)
        ]
        if rest := apart[MOST_INTERVALS:]:
            differences = [pair.difference for pair in rest]
            by = f"{min(differences):.2f} to {max(differences):.2f} nats"
            leads.append(f"{by} {comparative} than {words(name(pair.worse) for pair in rest)}")
        parts.append(f"{at(best)} has {words(leads)}")
    if level:
        subject = "it" if apart else f"{at(best)} has the {superlative} mean {figure}, and"
        if not apart and best != _best_mean(comparison):  # possible if values have different seeds
            subject = f"no value is shown to be better than {at(best)}, which"
        parts.append(f"{subject} is not told apart from {words(level)}")
    rest = [pair for pair in comparison.pairs if pair not in with_best]
    unclear = [f"{name(pair.better)} and {name(pair.worse)}" for pair in rest if not pair.is_told_apart]
    if rest and not unclear:
        parts.append("all other pairs are told apart")
    elif len(unclear) == 1:
        parts.append(f"{unclear[0]} are not told apart")
    elif unclear and len(unclear) <= 3:
        parts.append(f"not told apart are {', '.join(unclear[:-1])}, and {unclear[-1]}")
    elif unclear:
        parts.append(f"{len(unclear)} of the other {len(rest)} pairs are not told apart")
    return "; ".join([*parts, conditions(comparison, paper)])


def conditions(comparison: Comparison, paper: bool = False) -> str:
    """The data and the numbers of epochs, seeds and samples that all compared runs share, and how the settings were
    chosen."""
    chosen = [choice.chosen for choice in comparison.choices if choice.chosen]
    phrases = {"dataset": "{}", "binarization": "{} binarization", "epochs": "{} epochs"}
    if comparison.figure == "test_nll_nats":
        phrases["eval_samples"] = "{} samples for -log p(x)"
    parts = []
    for key, phrase in phrases.items():
        values = {row.get(key) for candidate in chosen for row in candidate.rows.values()}
        if len(values) == 1 and not values & {None, "none"}:
            parts.append(phrase.format(*values))
    seeds = {len(candidate.rows) for candidate in chosen}
    parts.append(f"{min(seeds)} seeds" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds")
    if comparison.others:
        names = [name.replace("_", " ") if paper else name for name in comparison.others]
        parts.append(f"{words(names)} chosen by the validation ELBO")
    return ", ".join(parts)


def warnings(comparison: Comparison) -> list[str]:
    """What weakens the answer: runs that diverged, did not finish or do not use their latent variables, the edge of the
    grid, unequal numbers of candidates, too few seeds."""
    chosen = [choice for choice in comparison.choices if choice.chosen]
    name = lambda value: _name(comparison, value)
    lines = []
    for choice in comparison.choices:
        diverged = [candidate for candidate in choice.candidates if candidate.diverged]
        if choice.chosen is None:
            reason = "runs diverged, or have no finite figures, at all its settings"
            lines.append(f"{name(choice.value)} is not compared, because {reason}")
        elif diverged:
            named = words(_described(candidate) or "this setting" for candidate in diverged)
            lines.append(
                f"{name(choice.value)}: runs diverged, or have no finite figures, at {named}, which cannot be chosen"
            )
    runs = [row for choice in chosen for row in choice.chosen.rows.values()]
    if versions := provenance.about_versions(row[CODE] for row in runs if CODE in row):
        lines.append(versions)
    edges: dict[str, list[str]] = {}
    for choice in chosen:
        for setting in choice.at_edge:
            edges.setdefault(f"{setting}={choice.chosen.settings[setting]}", []).append(name(choice.value))
    for place, values in edges.items():
        verb = "is" if len(values) == 1 else "are"
        lines.append(f"{words(values)} {verb} best at {place}, the edge of the grid; try values beyond it")
    if len({len(choice.candidates) for choice in chosen}) > 1:
        counts = words(f"{name(choice.value)} {len(choice.candidates)}" for choice in chosen)
        lines.append(f"unequal numbers of candidates favour the value with more of them: {counts}")
    if costs := _unequal_costs(chosen):
        named = words(f"{name(value)} {count:g}" for value, count in costs.items())
        advice = "; --budget=evaluations:N buys each its own K" if comparison.setting == "estimator" else ""
        lines.append(f"a training step has different costs, in evaluations of f for an image: {named}{advice}")
    if rising := [_rise(choice, comparison) for choice in chosen if _is_rising(choice.chosen, comparison.figure)]:
        lines.append(
            f"training is not finished: in the last fifth of the epochs the ELBO rose by {words(rising)}, more than the"
            " standard error of the test figure; train longer"
        )
    if unused := [name(choice.value) for choice in chosen if _hardly_uses_latents(choice.chosen)]:
        lines.append(
            f"the latent variables are hardly used with {words(unused)}: the mean rate is below {LEAST_RATE} nats, or"
            " less than one unit is active"
        )
    return [*lines, *_about_seeds(comparison)]


def _unequal_costs(choices: list[Choice]) -> dict[str, float]:
    """The evaluations of f in a training step of each value, if they are known and differ; else nothing."""
    costs = {
        choice.value: row["step_evaluations"]
        for choice in choices
        for row in choice.chosen.rows.values()
        if "step_evaluations" in row
    }
    return costs if len(set(costs.values())) > 1 else {}


def _about_seeds(comparison: Comparison) -> list[str]:
    """Pairs with too few seeds, equal pairs, and the seeds that would tell other pairs apart."""
    lines = []
    seeds = {choice.value: set(choice.chosen.rows) for choice in comparison.choices if choice.chosen}
    if lacking := [value for value, own in seeds.items() if own != set().union(*seeds.values())]:
        named = words(_name(comparison, value) for value in lacking)
        lines.append(
            f"seeds are missing with {named}: a mean is over a value's own seeds, and a difference over common seeds"
        )
    if single := [pair for pair in comparison.pairs if pair.seeds < 2]:
        lines.append(
            f"{len(single)} of {len(comparison.pairs)} pairs have fewer than two common seeds and no interval;"
            " give --seed=0,1,2,3,4"
        )
    several = [pair for pair in comparison.pairs if pair.seeds > 1]
    both = lambda pair: f"{_name(comparison, pair.better)} and {_name(comparison, pair.worse)}"
    farthest = lambda pair: math.ceil(max(1.0, round(100 * (pair.difference + pair.half_width), 6))) / 100
    equal = [pair for pair in several if farthest(pair) <= NEGLIGIBLE]
    lines += [f"{both(pair)} are equal to within {farthest(pair):.2f} nats" for pair in equal[:MOST_PAIRS]]
    unclear = [pair for pair in several if not pair.is_told_apart and pair not in equal]
    counted = False
    for pair in unclear[:MOST_PAIRS]:
        if pair.difference < NEGLIGIBLE:
            lines.append(f"{both(pair)} differ by at most {farthest(pair):.2f} nats, the far end of the interval")
        else:
            needed = f"about {pair.seeds_needed}" if pair.seeds_needed else f"more than {comparisons.MOST_SEEDS}"
            lines.append(
                f"{both(pair)}: to tell a difference of {pair.difference:.2f} nats apart in"
                f" {100 * comparisons.POWER:.0f} % of sweeps would take {needed} seeds"
            )
            counted = True
    if counted:
        lines.append(
            "adding seeds to this sweep until a pair is told apart would exceed the level of 5 %; a new sweep of new"
            " seeds, judged alone, keeps it"
        )
    return lines


def table(comparison: Comparison, paper: bool = False) -> list[list[str]]:
    """A header, and a line for each value: the chosen settings and the figures of its runs."""
    figures = [VALIDATION] * all(_has_validation(choice) for choice in comparison.choices) + [comparison.figure]
    names = list(next(choice.chosen.settings for choice in comparison.choices if choice.chosen))
    header = [comparison.setting, *names, "seeds", *(results.FIGURES[figure].title for figure in figures)]
    lines = [[title.replace("_", " ") for title in header] if paper else header]
    for choice in comparison.choices:
        if choice.chosen:
            settings = [str(choice.chosen.settings[name]) for name in names]
            means = [tables.with_error(*choice.chosen.mean(figure), digits=2) for figure in figures]
            lines.append([_cell(comparison, choice.value, paper), *settings, str(len(choice.chosen.rows)), *means])
    return lines


def pairs(comparison: Comparison, paper: bool = False) -> list[list[str]]:
    """A header, and a line for each pair of values."""
    lines = [["better", "worse", "difference, nats", "95 % interval", "seeds", "p (Holm)", "told apart"]]
    for pair in comparison.pairs:
        p, told, interval = "-", "-", "-"
        if not math.isnan(pair.p_value):
            p = tables.number(pair.p_value, 2)
            told = "yes" if pair.is_told_apart else "no"
            interval = _interval(pair)
        values = [_cell(comparison, value, paper) for value in (pair.better, pair.worse)]
        lines.append([*values, f"{pair.difference:.2f}", interval, str(pair.seeds), p, told])
    return lines


def _best_mean(comparison: Comparison) -> str:
    """The value with the best mean over its own seeds."""
    sign = 1 if FIGURES[comparison.figure][1] == "lower" else -1
    means = {choice.value: choice.chosen.mean(comparison.figure)[0] for choice in comparison.choices if choice.chosen}
    return min(means, key=lambda value: sign * means[value])


def _name(comparison: Comparison, value: str, paper: bool = False) -> str:
    """A value as sentences name it."""
    if comparison.setting == "estimator" and paper:
        return grammar.paper_name(value)
    if comparison.setting in SPEAKING:
        return value
    return _assignment(comparison.setting, value, paper)


def _cell(comparison: Comparison, value: str, paper: bool) -> str:
    """A value as tables name it, with a star if it is an estimator that its paper calls biased."""
    text = grammar.paper_name(value) if paper and comparison.setting == "estimator" else value
    return text + " *" * _is_biased(comparison, value)


def _is_biased(comparison: Comparison, value: str) -> bool:
    return comparison.setting == "estimator" and results.is_biased(value)


def _about_bias(comparison: Comparison) -> str:
    biased = any(_is_biased(comparison, choice.value) for choice in comparison.choices)
    return f" {results.ABOUT_STARS}" if biased else ""


def _assignment(name: str, value: object, paper: bool) -> str:
    return f"{name.replace('_', ' ')} {value}" if paper else f"{name}={value}"


def _described(candidate: Candidate, paper: bool = False) -> str:
    return " ".join(_assignment(name, value, paper) for name, value in candidate.settings.items())


def _at(candidate: Candidate, paper: bool) -> str:
    settings = _described(candidate, paper)
    return f" at {settings}" if settings else ""


def _interval(pair: Pair) -> str:
    return f"{pair.difference - pair.half_width:.2f} to {pair.difference + pair.half_width:.2f}"


def _evidence(pair: Pair) -> str:
    return f"95 % interval {_interval(pair)}, {pair.seeds} paired seeds, Holm p {tables.number(pair.p_value, 2)}"


def _is_rising(candidate: Candidate, figure: str) -> bool:
    """Whether the ELBO rose more in the last fifth of the epochs than one standard error of the mean test figure."""
    known = all(LATE_GAIN in row for row in candidate.rows.values())
    return known and candidate.mean(LATE_GAIN)[0] > candidate.mean(figure)[1]


def _rise(choice: Choice, comparison: Comparison) -> str:
    return f"{choice.chosen.mean(LATE_GAIN)[0]:.2f} nats with {_name(comparison, choice.value)}"


def _hardly_uses_latents(candidate: Candidate) -> bool:
    limits = {"test_rate_nats": LEAST_RATE, "active_units": LEAST_UNITS}
    known = [figure for figure in limits if all(figure in row for row in candidate.rows.values())]
    return any(candidate.mean(figure)[0] < limits[figure] for figure in known)


def _has_validation(choice: Choice) -> bool:
    return choice.chosen is None or all(VALIDATION in row for row in choice.chosen.rows.values())


def _other(pair: Pair, value: str) -> str:
    return pair.worse if pair.better == value else pair.better
