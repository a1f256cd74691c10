"""Verdicts: whether an estimator is biased, and which of two estimators is better."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.compare_estimators.measure_all import Result
from vae import diagnostics

# The figures that multiply the variance with a cost.
PRODUCTS = ("variance_x_flops", "variance_x_seconds")


class Factor(NamedTuple):
    """A cost that multiplies the variance of an estimator, and the cost's bootstrap replicates.

    Attributes:
      value: FLOP, seconds (the median over rounds), or 1.
      replicates: medians of seconds over resampled rounds, `[replicates]`; `value` itself if the cost is certain.
    """

    value: float
    replicates: np.ndarray | float


class Entrant(NamedTuple):
    """One measured estimator: its result, its row of results.csv, and the seconds of one gradient."""

    result: Result
    row: dict[str, Any]
    seconds: Factor


class Ratio(NamedTuple):
    """A ratio of two estimators' figures and its interval."""

    value: float
    low: float
    high: float


def is_biased(row: dict[str, Any], chunks: int) -> bool:
    """Whether the gradient deviates from the truth by more than chance allows.

    Either of two findings is enough:

    - The worst coordinate is beyond its critical |z|, and the whole deviation is more than twice as long as chance
      makes it. One coordinate alone proves nothing: if it depends on rare events, its mean is not normal, and its
      standard error is too small until such events have been drawn.
    - The bias along the truth has a |z| of 5 or more, and is more than rounding. For few chunks the limit is larger:
      the value that Student's t exceeds with probability 0.01 %.
    """
    limit = max(5, diagnostics.students_t(1 - 1e-4, chunks))
    along = abs(row["bias"]) > max(limit * row["bias_stderr"], 10 * diagnostics.ROUNDING)  # False for NaN
    whole = row["deviation"] > 2
    return bool(row["max_abs_z"] > row["critical_z"] and whole or along)


def judge(entrants: list[Entrant], group: str, confidence: float) -> list[dict[str, Any]]:
    """Compares estimators of one slot on one group of parameters.

    Adds to each entrant's row the ratios to the best estimator and a verdict. Returns the rows of pairs.csv. The best
    is the estimator with the smallest variance x FLOP that is unbiased, by its measurement and by its paper.
    """
    best = _best(entrants, group)
    for entrant in entrants:
        for figure in PRODUCTS:
            ratio = _ratio(entrant, best, group, figure, confidence)
            ratio = Ratio(1.0, math.nan, math.nan) if entrant is best else ratio
            name = f"{group}_{figure}_to_best"
            entrant.row.update({name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high})
        entrant.row[f"{group}_verdict"] = _verdict(entrant, best, group, confidence)
    return [
        _pair(first, second, group, figure, confidence)
        for i, first in enumerate(entrants)
        for second in entrants[i + 1 :]
        for figure in ("variance", *PRODUCTS)
    ]


def _best(entrants: list[Entrant], group: str) -> Entrant:
    """The unbiased estimator with the smallest variance x FLOP; a biased one only if there is no other."""
    is_finite = lambda entrant: math.isfinite(entrant.row[f"{group}_variance"])
    is_unbiased = lambda entrant: not entrant.row[f"{group}_biased"] and not entrant.row["declared_biased"]
    # An exact estimator has no variance, so ratios to it say nothing.
    is_random = lambda entrant: entrant.result.figures[group]["variance"] > 0
    candidates = entrants
    for condition in (is_finite, is_unbiased, is_random):
        candidates = [entrant for entrant in candidates if condition(entrant)] or candidates
    return min(candidates, key=lambda entrant: entrant.row[f"{group}_variance_x_flops"])


def _verdict(entrant: Entrant, best: Entrant, group: str, confidence: float) -> str:
    ratio = _ratio(entrant, best, group, "variance_x_flops", confidence)
    if not math.isfinite(entrant.row[f"{group}_variance"]):
        verdict = "NOT FINITE"
    elif entrant is best:
        verdict = "best"
    elif ratio.high < 1:
        verdict = "better"
    elif ratio.low > 1:
        verdict = "worse"
    else:
        verdict = "not told from best"
    return f"BIASED, {verdict}" if entrant.row[f"{group}_biased"] else verdict


def _pair(first: Entrant, second: Entrant, group: str, figure: str, confidence: float) -> dict[str, Any]:
    ratio = _ratio(first, second, group, figure, confidence)
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


def _ratio(first: Entrant, second: Entrant, group: str, figure: str, confidence: float) -> Ratio:
    """The figure of the first estimator over the figure of the second, paired by bootstrap replicate."""
    value = first.result.figures[group]["variance"] * _factor(first, figure).value
    other = second.result.figures[group]["variance"] * _factor(second, figure).value
    if other == 0 or value == 0:
        degenerate = 1.0 if value == other else math.inf if other == 0 else 0.0
        return Ratio(degenerate, degenerate, degenerate)
    ratios = _replicates(first, group, figure) / _replicates(second, group, figure)
    low, high = diagnostics.interval(ratios, first.result.chunks, confidence)
    return Ratio(value / other, low, high)


def _replicates(entrant: Entrant, group: str, figure: str) -> np.ndarray:
    return entrant.result.replicates[group]["variance"].astype(np.float64) * _factor(entrant, figure).replicates


def _factor(entrant: Entrant, figure: str) -> Factor:
    flops = entrant.result.case.flops
    factors = {
        "variance": Factor(1.0, 1.0),
        "variance_x_flops": Factor(flops, flops),
        "variance_x_seconds": entrant.seconds,
    }
    return factors[figure]
