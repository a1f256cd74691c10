"""Verdicts: whether an estimator is biased, and which of several estimators is better."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float

from vae.diagnostics.intervals import (
    Comparisons,
    compare_all,
    critical_z,
    students_t,
    with_skewness,
)
from vae.diagnostics.moments import ROUNDING

# Two estimators are equal if the whole interval of the ratio of their variance x cost lies within this distance of 1.
# Costs have no error, so without such a limit 0.01 % more FLOP would make one of two equal estimators worse.
SMALLEST_DIFFERENCE = 0.01


def bias_figures(figures: Mapping[str, float], draws: int, chunks: int, confidence: float = 0.95) -> dict[str, float]:
    """Returns the bias of one part along the true gradient, relative to the true length, with its interval.

    `figures` are the numbers of one part of `report`. The result has the keys bias, bias_stderr, bias_skewness,
    bias_low, bias_high, max_abs_z, critical_z, deviation and biased, the verdict of `is_biased`.
    """
    bias = float(figures["scale"]) - 1
    stderr = float(figures["scale_stderr"])
    skewness = float(figures["scale_skewness"])
    t = students_t(confidence, chunks)
    row = {
        "bias": bias,
        "bias_stderr": stderr,
        "bias_skewness": skewness,
        "bias_low": bias - stderr * with_skewness(t, skewness),
        "bias_high": bias - stderr * with_skewness(-t, skewness),
        "max_abs_z": float(figures["max_abs_z"]),
        # At least 5, because the mean of skewed draws is beyond a smaller limit more often than a normal mean.
        "critical_z": max(5.0, critical_z(figures["size"], draws)),
        "deviation": float(figures["deviation"]),
    }
    return row | {"biased": is_biased(row, chunks)}


def is_biased(row: Mapping[str, Any], chunks: int) -> bool:
    """Whether the gradient deviates from the truth by more than chance allows.

    Either of two findings is enough:

    - The worst coordinate is beyond its critical |z|, and the deviation of the whole gradient is more than twice as
      long as chance makes it. One coordinate alone proves nothing: if it depends on rare events, its mean is not
      normal, and its standard error is too small until such events have been drawn.
    - The bias along the truth has a |z| of 5 or more, after its skewness was removed, and is larger than a rounding
      error. For few chunks the limit is larger: the value that Student's t exceeds with probability 0.01 %.
    """
    limit = max(5, students_t(1 - 1e-4, chunks))
    end = with_skewness(math.copysign(limit, row["bias"]), row["bias_skewness"])
    along = abs(row["bias"]) > max(abs(end) * row["bias_stderr"], 10 * ROUNDING)  # False for NaN
    whole = row["deviation"] > 2
    return bool(row["max_abs_z"] > row["critical_z"] and whole or along)


def compare_products(
    variances: Sequence[float],
    by_chunk: Sequence[Float[Array | np.ndarray, "C"]],
    costs: Sequence[float],
    weights: Float[np.ndarray, "B C"],
    confidence: float = 0.95,
    cost_replicates: Float[np.ndarray, "E B"] | None = None,
) -> Comparisons:
    """The ratios of variance x cost of all pairs of estimators, as `compare_all` makes them.

    The ratio to an estimator without variance is exact, and the ratio to one whose variance is not finite is NaN.

    Args:
      variances: the variance of each estimator.
      by_chunk: the same variances as numbers by chunk, as `figures_by_chunk` returns.
      costs: the cost of one gradient of each estimator.
      weights: as `resampling` returns.
      confidence: the familywise level.
      cost_replicates: bootstrap replicates of uncertain costs.
    """
    costs = np.asarray(costs, np.float64)
    products = np.asarray(variances, np.float64) * costs
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(products[:, None] == products, 1.0, products[:, None] / products)
    ratios = Comparisons(exact, exact.copy(), exact.copy())
    random = np.flatnonzero(np.isfinite(products) & (products > 0))
    if len(random) > 1:
        replicates = None if cost_replicates is None else cost_replicates[random]
        chunks = np.stack([np.asarray(by_chunk[i]) for i in random])
        compared = compare_all(chunks, weights, confidence, costs[random], replicates)
        for array, random_ones in zip(ratios, compared, strict=True):
            array[np.ix_(random, random)] = random_ones
    return ratios


def is_exact(figures: Mapping[str, float]) -> bool:
    """Whether the draws of one part of `report` are equal up to rounding, as those of an exact gradient."""
    return bool(figures["variance"] <= (10 * ROUNDING * figures["norm"]) ** 2)


def is_always_zero(figures: Mapping[str, float]) -> bool:
    """Whether every draw of one part of `report` was exactly zero."""
    return bool(figures["variance"] == 0 and figures["mean_norm"] == 0)


def ranked_variance(figures: Mapping[str, float]) -> float:
    """The variance of one part of `report`, for `choose_best` and `compare_products`.

    It is 0 if the draws are equal up to rounding, and NaN, which has no rank, if they are all zero.
    """
    if is_always_zero(figures):
        return math.nan
    return 0.0 if is_exact(figures) else float(figures["variance"])


def choose_best(variances: Sequence[float], costs: Sequence[float], is_unbiased: Sequence[bool]) -> int:
    """The index of the unbiased estimator with the least variance x cost; a biased one only if there is no other."""
    conditions = (
        np.isfinite(variances),
        np.asarray(is_unbiased),
        np.asarray(variances) > 0,  # ratios to an exact estimator are infinite
    )
    candidates = list(range(len(variances)))
    for condition in conditions:
        candidates = [i for i in candidates if condition[i]] or candidates
    return min(candidates, key=lambda i: variances[i] * costs[i])


def is_equal(low: float, high: float) -> bool:
    """Whether the whole interval of a ratio lies from 1 / 1.01 to 1.01, within `SMALLEST_DIFFERENCE` of 1."""
    return 1 / (1 + SMALLEST_DIFFERENCE) <= low and high <= 1 + SMALLEST_DIFFERENCE  # False for NaN


def judge(variance: float, biased: bool, is_best: bool, low: float, high: float, always_zero: bool = False) -> str:
    """The verdict in words, from the interval of the ratio of variance x cost to the best estimator's.

    An estimator is better or worse than the best one if the interval excludes 1 and the two are not equal within 1 %
    (`is_equal`). A gradient that is not finite or always zero is neither better nor worse. An exact gradient has no
    variance and a ratio of 0, and is not called the best. A biased gradient is never called better, because a gradient
    that is too short also has a small variance.
    """
    if not math.isfinite(variance):
        verdict = "NOT FINITE"
    elif always_zero:
        verdict = "ALWAYS ZERO"
    elif is_best:
        verdict = "best"
    elif is_equal(low, high):
        verdict = "within 1 % of best"
    elif high < 1 and biased:
        verdict = "lower variance x cost"
    elif high < 1:
        verdict = "better" if high > 0 else "no variance"
    elif low > 1:
        verdict = "worse"
    else:
        verdict = "not told apart from best"
    return f"BIASED, {verdict}" if biased else verdict
