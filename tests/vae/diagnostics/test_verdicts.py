"""Verdicts from figures that are known."""

import numpy as np
import pytest
from scipy import stats

from vae import diagnostics

# A part of a report without a bias.
FIGURES = {"scale": 1.0, "scale_stderr": 0.01, "scale_skewness": 0.0, "max_abs_z": 1.0, "deviation": 1.0, "size": 1}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_a_bias_covers_where_draws_are_skewed(sign):
    """Means of 50 lognormal numbers, or their mirror images. Their normal intervals are too short at one end, and cover
    in 88 % of cases."""
    rows = 1 + sign * (np.exp(0.9 * np.random.default_rng(0).normal(size=(400, 50)) - 0.9**2 / 2) - 1)
    skewness = stats.skew(rows, axis=1) / np.sqrt(50)
    columns = zip(rows.mean(1), rows.std(1, ddof=1) / np.sqrt(50), skewness, strict=True)
    names = ("scale", "scale_stderr", "scale_skewness")
    judged = [diagnostics.bias_figures(FIGURES | dict(zip(names, row, strict=True)), 1000, 50) for row in columns]
    assert np.mean([row["bias_low"] <= 0 <= row["bias_high"] for row in judged]) > 0.91
    np.testing.assert_allclose([row["bias"] for row in judged], rows.mean(1) - 1)


def test_the_limit_of_a_coordinate_grows_with_their_number_and_is_at_least_five():
    limit = lambda size: diagnostics.bias_figures(FIGURES | {"size": size}, draws=10**6, chunks=50)["critical_z"]
    assert limit(1) == 5
    assert limit(10**6) == pytest.approx(stats.norm.isf(1e-4 / 2 / 10**6), abs=0.001)


def test_a_rounding_error_is_no_bias():
    row = diagnostics.bias_figures(FIGURES | {"scale_stderr": 0.0}, draws=1000, chunks=50)
    assert not diagnostics.is_biased(row | {"bias": 9e-6}, chunks=50)
    assert diagnostics.is_biased(row | {"bias": 1.1e-5}, chunks=50)


def test_products_are_compared_with_exact_and_broken_estimators():
    """Variances 2, 0, 1 and NaN at the costs 1, 1, 4 and 1; some costs are uncertain."""
    by_chunk = np.array([2.0, 0.0, 1.0, np.nan])[:, None] * np.ones(20)
    cost_replicates = np.array([1.0, 1.0, 4.0, 1.0])[:, None] * np.exp(
        0.1 * np.random.default_rng(0).normal(size=(4, 500))
    )
    compare = lambda replicates: diagnostics.compare_products(
        [2.0, 0.0, 1.0, np.nan], list(by_chunk), [1, 1, 4, 1], diagnostics.resampling(20, 500), 0.95, replicates
    )
    expected = [[1, np.inf, 0.5, np.nan], [0, 1, 0, np.nan], [2, np.inf, 1, np.nan]]
    for array in compare(None):
        np.testing.assert_allclose(array[:3], expected, rtol=1e-5)
    ratio, low, high = compare(cost_replicates)
    np.testing.assert_allclose(ratio[:3], expected, rtol=1e-5)
    assert low[0, 2] < 0.45 < 0.55 < high[0, 2]
    free = diagnostics.compare_products([2.0, 1.0], list(by_chunk[[0, 2]]), [0, 1], diagnostics.resampling(20, 500))
    np.testing.assert_equal(free.ratio, [[1, 0], [np.inf, 1]])  # XLA counts no FLOP of a program that moves data


@pytest.mark.parametrize(
    ("variance", "norm", "mean_norm", "ranked"),
    [
        (0.9e-10, 1.0, 1.0, 0.0),  # rounding of draws of the length 1
        (1.1e-10, 1.0, 1.0, 1.1e-10),
        (3e-10, 2.0, 2.0, 0.0),
        (0.0, 1.0, 0.5, 0.0),
        (0.0, 1.0, 0.0, np.nan),  # every draw was zero
        (2.0, 1.0, 0.0, 2.0),
    ],
)
def test_the_variance_of_equal_draws_is_zero_and_that_of_zeros_has_no_rank(variance, norm, mean_norm, ranked):
    figures = {"variance": variance, "norm": norm, "mean_norm": mean_norm}
    np.testing.assert_equal(diagnostics.ranked_variance(figures), ranked)


@pytest.mark.parametrize(
    ("variances", "costs", "is_unbiased", "best"),
    [
        ([2.0, 3.0], [2.0, 1.0], [True, True], 1),
        ([1.0, 3.0], [1.0, 1.0], [False, True], 1),
        ([1.0, 3.0], [1.0, 1.0], [False, False], 0),
        ([0.0, 3.0], [1.0, 1.0], [True, True], 1),
        ([0.0, 3.0], [1.0, 1.0], [True, False], 0),
        ([np.nan, 3.0], [1.0, 1.0], [True, False], 1),
    ],
)
def test_the_best_is_unbiased_with_the_least_product_and_some_variance_if_there_is_one(
    variances, costs, is_unbiased, best
):
    assert diagnostics.choose_best(variances, costs, is_unbiased) == best


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "better"),
        (0.0, 0.0, "no variance"),
        (0.5, 1.5, "not told apart from best"),
        (1.2, 1.5, "worse"),
        (0.995, 1.005, "within 1 % of best"),
        (np.nan, np.nan, "not told apart from best"),
    ],
)
def test_an_interval_decides(low, high, verdict):
    assert diagnostics.judge(1.0, False, False, low, high) == verdict
    of_a_biased_one = "lower variance x cost" if verdict in ("better", "no variance") else verdict
    assert diagnostics.judge(1.0, True, False, low, high) == f"BIASED, {of_a_biased_one}"
