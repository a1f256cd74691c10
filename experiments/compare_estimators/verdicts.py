"""Verdicts: whether an estimator is biased, and which of several estimators is better."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.common.charts import gradients
from experiments.common.measuring import Protocol
from experiments.compare_estimators.measure_all import Result
from vae import diagnostics
from vae.diagnostics import Comparisons


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


def compare(entrants: list[Entrant], group: str, weights: np.ndarray, protocol: Protocol) -> list[dict[str, Any]]:
    """Compares the estimators of one slot on one group of parameters.

    Adds to each entrant's row the ratios to the best estimator, a verdict, and the costs by which it would be the best
    one. Returns the rows of pairs.csv.

    The best is the estimator with the smallest variance x cost among those that are unbiased, by measurement in all
    groups and by their papers. For each figure, the intervals of all ratios hold at once with the probability
    `protocol.confidence`.

    Args:
      entrants: the estimators, each with its row.
      group: the group of parameters.
      weights: how often each bootstrap replicate counts each chunk, `[replicates, chunks]`.
      protocol: the familywise level, and the cost that decides.
    """
    products = [f"variance_x_{cost}" for cost in gradients.costs(protocol.judge_by)]
    ratios = {
        figure: _ratios(entrants, group, figure, weights, protocol.confidence) for figure in ("variance", *products)
    }
    best = _best(entrants, group, products[0])
    for i, entrant in enumerate(entrants):
        for figure in products:
            ratio = _ratio(ratios[figure], i, best) if i != best else Ratio(1.0, math.nan, math.nan)
            name = f"{group}_{figure}_to_best"
            entrant.row.update({name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high})
        entrant.row[f"{group}_verdict"] = _verdict(entrant, group, products[0], is_best=i == best)
    best_by = _best_by(entrants, group, protocol.judge_by, best, ratios["variance"])
    for i, entrant in enumerate(entrants):
        entrant.row[f"{group}_best_by"] = " ".join(cost for cost, index in best_by.items() if index == i) or "none"
    return [
        _pair(first, entrants[j], group, figure, _ratio(ratios[figure], i, j))
        for i, first in enumerate(entrants)
        for j in range(i + 1, len(entrants))
        for figure in ratios
    ]


def _best(entrants: list[Entrant], group: str, product: str) -> int:
    """The index of the estimator that the others are compared with."""
    biased = [name for name in entrants[0].row if name.endswith("_biased")]  # by its paper, and in each group
    is_unbiased = [not any(entrant.row[name] for name in biased) for entrant in entrants]
    costs = [_cost(entrant, product) for entrant in entrants]
    variances = [diagnostics.ranked_variance(entrant.result.figures[group]) for entrant in entrants]
    return diagnostics.choose_best(variances, costs, is_unbiased)


def _best_by(entrants: list[Entrant], group: str, judge_by: str, best: int, variances: Comparisons) -> dict[str, int]:
    """The index of the best estimator by the deciding cost, by evaluations and by FLOP.

    Another cost has another best estimator only if that cost tells this one apart from the best one by the deciding
    cost. FLOP are left out if f calls the host, where they are not counted.
    """
    best_by = {judge_by: best}
    is_counted = not entrants[0].result.task.host_calls.names
    for cost in ("evaluations", "flops") if is_counted else ("evaluations",):
        figure = f"variance_x_{cost}"
        other = _best(entrants, group, figure)
        factor = _cost(entrants[best], figure) / _cost(entrants[other], figure)
        low, high = (factor * float(end[best, other]) for end in (variances.low, variances.high))
        is_worse = low > 1 and not diagnostics.is_equal(low, high)
        best_by.setdefault(cost, other if is_worse else best)
    return best_by


def _ratios(entrants: list[Entrant], group: str, figure: str, weights: np.ndarray, confidence: float) -> Comparisons:
    """The ratios of one figure for every pair of entrants."""
    variances = [diagnostics.ranked_variance(entrant.result.figures[group]) for entrant in entrants]
    by_chunk = [entrant.result.by_chunk[group]["variance"] for entrant in entrants]
    costs = [_cost(entrant, figure) for entrant in entrants]
    is_timed = figure == "variance_x_seconds"
    times = np.stack([entrant.seconds.replicates for entrant in entrants]) if is_timed else None
    return diagnostics.compare_products(variances, by_chunk, costs, weights, confidence, times)


def _cost(entrant: Entrant, figure: str) -> float:
    """The factor by which the figure multiplies the variance."""
    case = entrant.result.case
    costs = {"evaluations": case.evaluations, "flops": case.flops, "seconds": entrant.seconds.median}
    return 1 if figure == "variance" else costs[figure.removeprefix("variance_x_")]


def _ratio(ratios: Comparisons, i: int, j: int) -> Ratio:
    return Ratio(*(float(array[i, j]) for array in ratios))


def _verdict(entrant: Entrant, group: str, product: str, is_best: bool) -> str:
    row = entrant.row
    low, high = (row[f"{group}_{product}_to_best_{end}"] for end in ("low", "high"))
    always_zero = diagnostics.is_always_zero(entrant.result.figures[group])
    return diagnostics.judge(row[f"{group}_variance"], row[f"{group}_biased"], is_best, low, high, always_zero)


def _pair(first: Entrant, second: Entrant, group: str, figure: str, ratio: Ratio) -> dict[str, Any]:
    if diagnostics.is_equal(ratio.low, ratio.high):
        verdict = "equal within 1 %"
    elif ratio.high < 1:
        verdict = "first is better"
    elif ratio.low > 1:
        verdict = "second is better"
    else:
        verdict = "not told apart"
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
