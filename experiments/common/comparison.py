"""Which value of a setting is best, when every other swept setting is chosen by validation, and which values differ.

    comparison = compare(rows, "estimator")          # rows of results.csv
    print(verdict.answer(comparison))

For each value of the compared setting, the candidate with the best mean validation bound over seeds is chosen. The test
figures of the chosen candidates are then compared pair by pair over the seeds that both have: a seed gives both runs
the same data order, so the differences vary less than the runs. A difference has the interval of Student's t. Two
values are told apart if their p-value is below 0.05 after Holm's correction over all pairs (Holm 1979, Scandinavian
Journal of Statistics 6).
"""

import itertools
import math
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from experiments.common import provenance, results
from experiments.common.settings import FIELDS

Row = dict[str, Any]

HELP = (
    "Swept setting whose values are compared, such as estimator: the other swept settings are chosen by validation, and"
    " the test figures are compared over seeds."
)
VALIDATION = "validation_elbo_nats"
# What `with_context` adds to a row: the rise of the ELBO at the end of training, and the version of the code.
LATE_GAIN = "late_gain_nats"
CODE = "code"
# The part of the epochs that is the end of training.
LATE = 0.2
# Two values are told apart at this familywise level.
LEVEL = 0.05
# The probability with which a comparison with the needed number of seeds would tell two values apart.
POWER = 0.8
# More seeds than this are not counted.
MOST_SEEDS = 1000
# A setting with more values is compared only if it is asked for.
MOST_VALUES = 50
# Runs that differ in one of these settings have bounds that cannot be compared.
ALIKE = ("dataset", "binarization", "validation_size", "likelihood")


class Candidate(NamedTuple):
    """The runs of one value of the compared setting that differ only in their seeds.

    Attributes:
      settings: The values of the other swept settings, also of those that are the same for all candidates of a value.
      rows: The finished run of each seed.
      diverged: The number of runs that diverged, or whose figures are not finite.
    """

    settings: dict[str, Any]
    rows: dict[int, Row]
    diverged: int

    @property
    def is_complete(self) -> bool:
        """Whether there is a finished run, and none diverged."""
        return bool(self.rows) and not self.diverged

    def mean(self, figure: str) -> tuple[float, float]:
        """The mean of a figure over seeds, and its standard error."""
        return results.mean_and_error([row[figure] for row in self.rows.values()])


class Choice(NamedTuple):
    """A value of the compared setting, with the candidate that validation chose.

    Attributes:
      value: The value.
      chosen: The chosen candidate; None if each candidate has a run that diverged.
      candidates: All candidates.
      at_edge: The names of the numeric settings whose chosen value is the least or the largest that was tried.
    """

    value: str
    chosen: Candidate | None
    candidates: list[Candidate]
    at_edge: list[str]


class Pair(NamedTuple):
    """Two values of the compared setting, the one with the better mean first.

    Attributes:
      better: The value with the better mean test figure.
      worse: The other value.
      difference: The mean difference over common seeds, in nats; positive.
      half_width: Half the width of the 95 % interval of this difference, in nats; NaN with fewer than two seeds.
      seeds: The number of common seeds.
      p_value: The p-value of no difference, after Holm's correction over all pairs; NaN with fewer than two seeds.
      seeds_needed: The number of seeds with which a difference of this size and spread would be told apart with
        probability 0.8; None if it is larger than 1000 or unknown.
    """

    better: str
    worse: str
    difference: float
    half_width: float
    seeds: int
    p_value: float
    seeds_needed: int | None

    @property
    def is_told_apart(self) -> bool:
        return self.p_value < LEVEL


class Comparison(NamedTuple):
    """The comparison of all values of one setting.

    Attributes:
      setting: The name of the compared setting.
      others: The names of the swept settings that validation chose.
      figure: The test figure that is compared: "test_nll_nats", or "test_elbo_nats" if the K of -log p(x) differ.
      choices: A choice for each value, the best mean first. If values have different seeds, and a pair shows over its
        common seeds that the first is worse than another value, the first that no pair shows to be worse comes first.
      pairs: All pairs of values that have a chosen candidate.
    """

    setting: str
    others: list[str]
    figure: str
    choices: list[Choice]
    pairs: list[Pair]


def check(rows: Iterable[Row], setting: str, has_validation: bool) -> None:
    """Refuses runs, finished or not, that could not be compared.

    Args:
      rows: The settings of the runs.
      has_validation: Whether all runs have a validation split.

    Raises:
      ValueError: One sentence that says what would work.
    """
    rows = list(rows)
    varying = results.varying(rows)
    if setting not in (*FIELDS, "workdir"):
        raise ValueError(f"--compare={setting}: there is no such setting; {_swept(varying)}")
    if setting == "seed":
        raise ValueError("--compare=seed: seeds are averaged, not compared; choose another setting")
    if setting in ALIKE:
        raise ValueError(
            f"--compare={setting}: bounds on other data or with another likelihood cannot be compared; choose another"
            " setting"
        )
    if setting not in varying:
        raise ValueError(f"--compare={setting} needs runs with several values of {setting}; {_swept(varying)}")
    if different := [name for name in ALIKE if name in varying]:
        raise ValueError(
            f"--compare={setting} needs runs on the same data, but {words(different)} differs; choose runs of one value"
        )
    same = lambda row: tuple(str(row.get(name)) for name in FIELDS)
    if setting != "workdir" and len({same(row) for row in rows}) < len(rows):
        raise ValueError(
            f"--compare={setting}: several runs have the same settings and seed; give one workdir, or choose"
            " --compare=workdir"
        )
    if (others := chosen_settings(rows, setting)) and not has_validation:
        raise ValueError(
            f"--compare={setting} cannot choose {words(others)} for each {setting}: the runs have no validation split,"
            " and a choice by the test set would favour the values that were tried most often. Hold out training images"
            " with --validation_size=200, or sweep nothing else"
        )


def _swept(varying: list[str]) -> str:
    if not varying:
        return "no setting is swept; train with several values of a flag, such as --estimator=stl,dreg"
    return f"choose one of the swept settings: {', '.join(varying)}"


def default_setting(rows: list[Row]) -> str | None:
    """The setting that a reader would compare: the only one that varies, else the estimator if it varies.

    None if it has more values than a reader would compare pair by pair.
    """
    names = results.varying(rows)
    name = names[0] if len(names) == 1 else "estimator"
    return name if 1 < len({str(row.get(name)) for row in rows}) <= MOST_VALUES else None


def compare(rows: list[Row], setting: str) -> Comparison:
    """Chooses a candidate for each value of the setting, and compares the values pair by pair.

    Args:
      rows: Rows of results.csv, of finished and diverged runs.

    Raises:
      ValueError: As `check`, or if fewer than two values have a candidate without diverged runs.
    """
    finished = [row for row in rows if row["status"] == "done"]
    check(rows, setting, has_validation=bool(finished) and all(VALIDATION in row for row in finished))
    names = [name for name in swept(rows) if name != setting]
    figure = "test_elbo_nats" if len({row["eval_samples"] for row in rows}) > 1 else "test_nll_nats"
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row[setting]), []).append(row)
    choices = [_choose(value, members, names, figure) for value, members in groups.items()]
    choices.sort(key=lambda choice: results.least_first(-_gain(choice.chosen, figure) if choice.chosen else math.nan))
    chosen = [choice for choice in choices if choice.chosen]
    if len(chosen) < 2:
        raise ValueError(
            f"--compare={setting} needs two values of {setting} whose runs did not diverge and have finite figures"
        )
    pairs = _compare_pairs(chosen, figure)
    beaten = {pair.worse for pair in pairs if pair.is_told_apart}
    if first := [choice for choice in chosen if choice.value not in beaten][:1]:
        choices = [*first, *(choice for choice in choices if choice is not first[0])]
    return Comparison(setting, chosen_settings(rows, setting), figure, choices, pairs)


# --- Choice by validation


def swept(rows: list[Row]) -> list[str]:
    """The names of the settings in which the runs differ, apart from the seed and from the K of the evaluation."""
    return [name for name in results.varying(rows) if name not in ("workdir", "eval_samples")]


def chosen_settings(rows: list[Row], setting: str) -> list[str]:
    """The settings that must be chosen, because they vary among the runs of one value of the compared setting."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(setting)), []).append(row)
    varying = {name for members in groups.values() for name in swept(members)}
    return [name for name in swept(rows) if name in varying and name != setting]


def _choose(value: str, rows: list[Row], names: list[str], figure: str) -> Choice:
    """The candidate with the best mean validation bound, among those with the most seeds and no diverged run."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    candidates = [
        Candidate(
            dict(zip(names, values, strict=True)),
            rows={row["seed"]: row for row in members if _is_sound(row, figure)},
            diverged=sum(not _is_sound(row, figure) for row in members),
        )
        for values, members in groups.items()
    ]
    complete = [candidate for candidate in candidates if candidate.is_complete]
    most = max((len(candidate.rows) for candidate in complete), default=0)
    complete = [candidate for candidate in complete if len(candidate.rows) == most]
    if not complete:
        return Choice(value, None, candidates, [])
    chosen = max(complete, key=lambda one: one.mean(VALIDATION)[0]) if len(complete) > 1 else complete[0]
    return Choice(value, chosen, candidates, [name for name in names if _is_at_edge(chosen, candidates, name)])


def _is_sound(row: Row, figure: str) -> bool:
    """Whether a run did not diverge, and the figures by which it is chosen and compared are finite."""
    return row["status"] == "done" and math.isfinite(row[figure]) and math.isfinite(row.get(VALIDATION, 0.0))


def _is_at_edge(chosen: Candidate, candidates: list[Candidate], name: str) -> bool:
    """Whether the chosen value of a numeric setting is the least or the largest of several."""
    values = {candidate.settings[name] for candidate in candidates}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numeric and len(values) > 1 and chosen.settings[name] in (min(values), max(values))


# --- Comparison over seeds


def _gain(candidate: Candidate, figure: str) -> float:
    """The mean test figure as a bound: higher is better."""
    return statistics.fmean(_bound(row, figure) for row in candidate.rows.values())


def _bound(row: Row, figure: str) -> float:
    return -row[figure] if figure == "test_nll_nats" else row[figure]


def _compare_pairs(choices: list[Choice], figure: str) -> list[Pair]:
    pairs = [_compare_pair(a, b, figure) for a, b in itertools.combinations(choices, 2)]
    adjusted = holm([pair.p_value for pair in pairs])
    count = sum(not math.isnan(p) for p in adjusted)
    return [
        pair._replace(p_value=p, seeds_needed=_seeds_needed(pair, LEVEL / max(1, count)))
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _compare_pair(first: Choice, second: Choice, figure: str) -> Pair:
    """The paired comparison, with the p-value of this pair alone."""
    a, b = first.chosen.rows, second.chosen.rows
    differences = [_bound(a[seed], figure) - _bound(b[seed], figure) for seed in a if seed in b]
    if not differences:
        mean = _gain(first.chosen, figure) - _gain(second.chosen, figure)
        half_width, p_value = math.nan, math.nan
    else:
        mean, half_width, p_value = paired_t(differences)
    names = (first.value, second.value) if mean >= 0 else (second.value, first.value)
    return Pair(*names, abs(mean), half_width, len(differences), p_value, None)


def paired_t(differences: list[float]) -> tuple[float, float, float]:
    """The mean of paired differences, half the width of its 95 % interval, and the p-value of a mean of zero.

    The half-width and the p-value are NaN for a single difference.
    """
    from scipy import special

    mean, error = results.mean_and_error(differences)
    if math.isnan(error):
        return mean, math.nan, math.nan
    freedom = len(differences) - 1
    half_width = special.stdtrit(freedom, 1 - LEVEL / 2) * error
    if error == 0:
        return mean, 0.0, float(mean == 0)
    return mean, float(half_width), float(2 * special.stdtr(freedom, -abs(mean) / error))


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of `p_values`. NaN stays NaN and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def _seeds_needed(pair: Pair, level: float) -> int | None:
    """The `seeds_needed` of a pair that is compared at this level.

    The usual approximation: the shift t(1 - level/2) + t(power) in standard errors, both quantiles of Student's t.
    """
    from scipy import special

    if math.isnan(pair.half_width) or pair.difference == 0:
        return None
    spread = pair.half_width / special.stdtrit(pair.seeds - 1, 1 - LEVEL / 2) * math.sqrt(pair.seeds)
    for seeds in range(2, MOST_SEEDS + 1):
        shift = special.stdtrit(seeds - 1, 1 - level / 2) + special.stdtrit(seeds - 1, POWER)
        if pair.difference >= shift * spread / math.sqrt(seeds):
            return seeds
    return None


def with_context(row: Row, evaluations: Iterable[Row], record: dict[str, Any]) -> Row:
    """The row of a run, the code that trained it and, if it is known, the rise of its ELBO over the last fifth of the
    epochs, in nats.

    Args:
      evaluations: The rows of metrics.jsonl of the run.
      record: The content of runs.json.
    """
    row = row | {CODE: provenance.code_versions(record)}
    elbo = {one["epoch"]: one["elbo_nats"] for one in evaluations if math.isfinite(one["elbo_nats"])}
    last = max(elbo, default=0)
    before = [epoch for epoch in elbo if epoch <= (1 - LATE) * last + 1e-9]
    return row | ({LATE_GAIN: elbo[last] - elbo[max(before)]} if before else {})


def words(items: Iterable[str]) -> str:
    """The items as in a sentence: "a, b and c"."""
    items = list(items)
    if len(items) < 2:
        return "".join(items) or "none"
    return f"{', '.join(items[:-1])} and {items[-1]}"
