"""Verdicts: whether an estimator is biased, and which of several estimators is better."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.compare_estimators.measure_all import Result
from vae import diagnostics
from vae.diagnostics import Comparisons

# The figures that multiply the variance by a cost.
PRODUCTS = ("variance_x_flops", "variance_x_seconds")


class Seconds(NamedTuple):
    """The time of one gradient.

    Attributes:
      median: the median over rounds of timing.
      replicates: the medians over resampled rounds, `[replicates]`.
    """

    median: float
    replicates: np.ndarray


class Entrant(NamedTuple):
    """One measured estimator: its result, its row of results.csv, and the seconds of one gradient."""

    result: Result
    row: dict[str, Any]
    seconds: Seconds


class Ratio(NamedTuple):
    """A ratio of two estimators' figures and its interval."""

    value: float
    low: float
    high: float


def is_biased(row: dict[str, Any], chunks: int) -> bool:
    """Whether the gradient deviates from the truth by more than chance allows.

    Either of two findings is enough:

    - The worst coordinate is beyond its critical |z|, and the deviation of the whole gradient is more than twice as
      long as chance makes it. One coordinate alone proves nothing: if it depends on rare events, its mean is not
      normal, and its standard error is too small until such events have been drawn.
    - The bias along the truth has a |z| of 5 or more and is larger than a rounding error. For few chunks the limit is
      larger: the value that Student's t exceeds with probability 0.01 %.
    """
    limit = max(5, diagnostics.students_t(1 - 1e-4, chunks))
    along = abs(row["bias"]) > max(limit * row["bias_stderr"], 10 * diagnostics.ROUNDING)  # False for NaN
    whole = row["deviation"] > 2
    return bool(row["max_abs_z"] > row["critical_z"] and whole or along)


def compare(entrants: list[Entrant], group: str, weights: np.ndarray, confidence: float) -> list[dict[str, Any]]:
    """Compares the estimators of one slot on one group of parameters.

    Adds to each entrant's row the ratios to the best estimator and a verdict. Returns the rows of pairs.csv. The best
    is the estimator with the smallest variance x FLOP among those that are unbiased, by measurement and by their
    papers. For each figure, the intervals of all ratios hold at once with probability `confidence`.

    Args:
      entrants: the estimators, each with its row.
      group: the group of parameters.
      weights: how often each bootstrap replicate counts each chunk, `[replicates, chunks]`.
      confidence: the familywise level.
    """
    ratios = {figure: _ratios(entrants, group, figure, weights, confidence) for figure in ("variance", *PRODUCTS)}
    best = _best(entrants, group)
    for i, entrant in enumerate(entrants):
        for figure in PRODUCTS:
            ratio = _ratio(ratios[figure], i, best) if i != best else Ratio(1.0, math.nan, math.nan)
            name = f"{group}_{figure}_to_best"
            entrant.row.update({name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high})
        entrant.row[f"{group}_verdict"] = _verdict(entrant.row, group, is_best=i == best)
    return [
        _pair(first, entrants[j], group, figure, _ratio(ratios[figure], i, j))
        for i, first in enumerate(entrants)
        for j in range(i + 1, len(entrants))
        for figure in ratios
    ]


def _best(entrants: list[Entrant], group: str) -> int:
    """The index of the unbiased estimator with the least variance x FLOP; a biased one only if there is no other."""
    is_finite = lambda row: math.isfinite(row[f"{group}_variance"])
    is_unbiased = lambda row: not row[f"{group}_biased"] and not row["declared_biased"]
    is_random = lambda row: row[f"{group}_variance"] > 0  # ratios to an exact estimator are infinite
    rows = [entrant.row for entrant in entrants]
    candidates = list(range(len(rows)))
    for condition in (is_finite, is_unbiased, is_random):
        candidates = [i for i in candidates if condition(rows[i])] or candidates
    return min(candidates, key=lambda i: rows[i][f"{group}_variance_x_flops"])


def _ratios(entrants: list[Entrant], group: str, figure: str, weights: np.ndarray, confidence: float) -> Comparisons:
    """The ratios of one figure for every pair of entrants. A ratio to an entrant without variance is exact."""
    variances = np.array([entrant.result.figures[group]["variance"] for entrant in entrants], np.float64)
    costs = np.array([_cost(entrant, figure) for entrant in entrants], np.float64)
    products = variances * costs
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(products[:, None] == products, 1.0, products[:, None] / products)
    ratios = Comparisons(exact, exact.copy(), exact.copy())
    random = np.flatnonzero(np.isfinite(products) & (products > 0))
    if len(random) > 1:
        by_chunk = np.stack([entrants[i].result.by_chunk[group]["variance"] for i in random])
        is_timed = figure == "variance_x_seconds"
        times = np.stack([entrants[i].seconds.replicates for i in random]) if is_timed else None
        compared = diagnostics.compare_all(by_chunk, weights, confidence, costs[random], times)
        for array, random_ones in zip(ratios, compared, strict=True):
            array[np.ix_(random, random)] = random_ones
    return ratios


def _cost(entrant: Entrant, figure: str) -> float:
    """The factor by which the figure multiplies the variance."""
    costs = {"variance": 1, "variance_x_flops": entrant.result.case.flops, "variance_x_seconds": entrant.seconds.median}
    return costs[figure]


def _ratio(ratios: Comparisons, i: int, j: int) -> Ratio:
    return Ratio(*(float(array[i, j]) for array in ratios))


def _verdict(row: dict[str, Any], group: str, is_best: bool) -> str:
    if not math.isfinite(row[f"{group}_variance"]):
        verdict = "NOT FINITE"
    elif is_best:
        verdict = "best"
    elif row[f"{group}_variance_x_flops_to_best_high"] < 1:
        verdict = "better"
    elif row[f"{group}_variance_x_flops_to_best_low"] > 1:
        verdict = "worse"
    else:
        verdict = "not distinguished from best"
    return f"BIASED, {verdict}" if row[f"{group}_biased"] else verdict


def _pair(first: Entrant, second: Entrant, group: str, figure: str, ratio: Ratio) -> dict[str, Any]:
    if ratio.high < 1:
        verdict = "first is better"
    elif ratio.low > 1:
        verdict = "second is better"
    else:
        verdict = "not distinguished"
    return {
        **first.result.task.problem.point,
        "group": group,
        "figure": figure,
        "first": first.row["estimator"],
        "second": second.row["estimator"],
        "num_samples_first": first.row["num_samples"],
        "num_samples_second": second.row["num_samples"],
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "verdict": verdict,
    }
