"""Confidence intervals and simultaneous comparisons against known distributions."""

import numpy as np
import pytest
from scipy import stats

from vae import diagnostics
from vae.diagnostics import intervals

WEIGHTS = diagnostics.resampling(50, replicates=500)


def test_each_replicate_counts_every_chunk_as_often_as_there_are_chunks():
    assert WEIGHTS.shape == (500, 50)
    assert np.all(WEIGHTS.sum(1) == 50)


def test_the_interval_of_a_normal_mean_is_students_interval():
    by_chunk = np.random.default_rng(0).normal(2.0, 1.0, 50)
    low, high = diagnostics.interval(by_chunk, diagnostics.resampling(50, 20_000))
    expected = stats.ttest_1samp(by_chunk, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.03)


CHUNKS = np.array([1.0, 2.0, 2.5, 4.0, 7.0])
# Which chunks are in a replicate, and how often each chunk is.
RESAMPLED = np.array([[0, 0, 1, 2, 4], [1, 1, 3, 3, 4], [0, 2, 2, 3, 3], [4, 4, 1, 0, 2]])
COUNTS = np.stack([np.bincount(row, minlength=5) for row in RESAMPLED]).astype(float)


def standard_error(rows):
    return np.std(rows, axis=-1, ddof=1) / np.sqrt(rows.shape[-1])


def test_an_interval_is_the_bootstrap_t_of_its_definition():
    mean, replicates = CHUNKS.mean(), CHUNKS[RESAMPLED]
    pivots = (replicates.mean(1) - mean) / standard_error(replicates)
    below, above = np.quantile(pivots, [0.9, 0.1])
    ends = mean - below * standard_error(CHUNKS), mean - above * standard_error(CHUNKS)
    assert diagnostics.interval(CHUNKS, COUNTS, 0.8) == pytest.approx(ends)
    # The log scale: errors are relative, and the upper half is 1 + 2 relative errors as long.
    relative = standard_error(CHUNKS) / mean
    pivots = np.log(replicates.mean(1) / mean) / (standard_error(replicates) / replicates.mean(1))
    below, above = np.quantile(pivots, [0.9, 0.1])
    ends = mean * np.exp(-below * relative), mean * np.exp(-above * relative * (1 + 2 * relative))
    assert diagnostics.interval(CHUNKS, COUNTS, 0.8, log=True) == pytest.approx(ends)


def test_the_interval_of_an_snr_allows_for_the_size_of_a_mean_of_noise_and_ends_at_zero():
    low, high = diagnostics.interval(0.1 * CHUNKS, COUNTS, 0.8)
    of_figure = lambda figure, draws: diagnostics.figure_interval(figure, 0.1 * CHUNKS, COUNTS, draws, 0.8)
    noise = np.sqrt(2 / np.pi / 1000)  # E|N(0, 1 / 1000)|
    assert of_figure("snr", 1000) == pytest.approx((low - noise, high))
    assert of_figure("snr", 1) == pytest.approx((0, high))
    assert of_figure("cosine", 1000) == (low, high)
    assert of_figure("variance", 1000) == diagnostics.interval(0.1 * CHUNKS, COUNTS, 0.8, log=True)


def test_a_comparison_is_the_max_t_of_its_definition():
    """Two figures, so that the largest pivot of a replicate is that of their ratio."""
    rows = np.stack([CHUNKS, CHUNKS[[2, 0, 4, 1, 3]]])
    replicates = rows[:, RESAMPLED]  # [2, replicates, 5]
    log_ratio = lambda rows: np.log(rows[0].mean(-1) / rows[1].mean(-1))
    error = lambda rows: standard_error(rows[0] / rows[0].mean(-1)[..., None] - rows[1] / rows[1].mean(-1)[..., None])
    pivots = np.abs(log_ratio(replicates) - log_ratio(rows)) / error(replicates)
    reach = np.quantile(pivots, 0.8) * error(rows) * (1 + 2 * error(rows))
    low, high = (getattr(diagnostics.compare_all(rows, COUNTS, 0.8), end)[0, 1] for end in ("low", "high"))
    assert (low, high) == pytest.approx((np.exp(log_ratio(rows) - reach), np.exp(log_ratio(rows) + reach)))


@pytest.mark.parametrize(("log", "least"), [(False, 0.91), (True, 0.94)])
def test_the_interval_of_a_skewed_mean_covers(log, least):
    """The mean of 50 lognormal numbers. Student's interval covers it in 88 % of cases."""
    rows = np.exp(0.9 * np.random.default_rng(0).normal(size=(400, 50)))
    truth = np.exp(0.9**2 / 2)
    ends = [diagnostics.interval(row, WEIGHTS, log=log) for row in rows]
    assert np.mean([low <= truth <= high for low, high in ends]) > least
    reach = stats.t.ppf(0.975, 49) * rows.std(1, ddof=1) / np.sqrt(50)
    assert np.mean(np.abs(rows.mean(1) - truth) < reach) < 0.89


def test_an_interval_that_the_skewness_shifts_covers_a_skewed_mean():
    """The same means as above; Student's interval is too short below, where the large numbers are missing."""
    rows = np.exp(0.9 * np.random.default_rng(0).normal(size=(400, 50)))
    z = (rows.mean(1) - np.exp(0.9**2 / 2)) / rows.std(1, ddof=1) * np.sqrt(50)
    limit = diagnostics.students_t(0.95, 50)
    skewness = stats.skew(rows, axis=1) / np.sqrt(50)
    ends = [[intervals.with_skewness(end, g) for end in (-limit, limit)] for g in skewness]
    assert np.mean([low <= one <= high for one, (low, high) in zip(z, ends, strict=True)]) > 0.91
    assert all(low < -limit < high < limit for low, high in ends)
    undone = [end + g * end**2 / 3 + g**2 * end**3 / 27 + g / 6 for (_, end), g in zip(ends, skewness, strict=True)]
    np.testing.assert_allclose(undone, limit)  # Hall's cubic
    assert intervals.with_skewness(2.0, 0.0) == 2.0


def test_a_constant_has_an_interval_of_no_width_and_nan_has_none():
    assert diagnostics.interval(np.full(50, 3.0), WEIGHTS, log=True) == (3.0, 3.0)
    assert np.all(np.isnan(diagnostics.interval(np.array([1.0, np.nan, *np.ones(48)]), WEIGHTS)))


def test_replicates_of_equal_chunks_leave_the_interval_finite():
    """One replicate in three holds only chunks that are 1."""
    low, high = diagnostics.interval(np.array([0.0, *np.ones(49)]), WEIGHTS)
    assert -np.inf < low < 0.98 < high < np.inf


def test_replicates_that_miss_the_only_event_leave_the_intervals_finite():
    event = np.array([1.0, *np.zeros(49)])
    low, high = diagnostics.interval(event, WEIGHTS, log=True)
    assert 0 < low < 0.02 < high < np.inf
    ratios = diagnostics.compare_all(np.stack([event, event[::-1], np.ones(50)]), WEIGHTS)
    assert np.all(np.isfinite(np.stack(ratios)))
    # Without the event the ratio to a constant has no error of its own, and gets a twentieth of the error of all.
    ratio, _, high = (array[0, 1] for array in diagnostics.compare_all(np.stack([1 + event, np.ones(50)]), WEIGHTS))
    error = np.std((1 + event) / ratio, ddof=1) / np.sqrt(50)
    assert np.log(high / ratio) == pytest.approx(np.log(ratio) / 0.05 * (1 + 2 * error))


def test_equal_estimators_are_rarely_told_apart():
    """Twelve equal figures with skewed chunks. With an interval for each pair alone, the best of twelve would be told
    from some other one in more than half of the comparisons."""
    rows = np.exp(0.5 * np.random.default_rng(0).normal(size=(100, 12, 50)))
    told_apart = lambda row: np.any(diagnostics.compare_all(row, WEIGHTS).low > 1)
    assert np.mean([told_apart(row) for row in rows]) < 0.12  # two standard errors above 5 %
    pairwise = [stats.ttest_rel(row[row.mean(1).argmin()], row[row.mean(1).argmax()]).pvalue < 0.05 for row in rows]
    assert np.mean(pairwise) > 0.5


def test_unequal_estimators_are_told_apart():
    rows = (
        np.exp(0.5 * np.random.default_rng(0).normal(size=(12, 50))) * np.array([1.0, 1.6, *np.full(10, 4.0)])[:, None]
    )
    ratios = diagnostics.compare_all(rows, WEIGHTS)
    assert np.all(ratios.low[1:, 0] > 1)
    np.testing.assert_allclose(ratios.ratio, rows.mean(1)[:, None] / rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(ratios.low, 1 / ratios.high.T, rtol=1e-12)


def test_estimators_with_the_same_draws_are_compared_by_their_costs():
    row = np.exp(np.random.default_rng(0).normal(size=50))
    ratios = diagnostics.compare_all(np.stack([row, row]), WEIGHTS, factors=np.array([2.0, 1.0]))
    ends = [ratios.low[0, 1], ratios.ratio[0, 1], ratios.high[0, 1]]
    np.testing.assert_allclose(ends, 2.0, rtol=2e-6)  # rounding of the gradients


def test_an_uncertain_factor_widens_the_interval():
    rows = np.exp(0.1 * np.random.default_rng(0).normal(size=(2, 50)))
    times = np.exp(0.3 * np.random.default_rng(1).normal(size=(2, 500)))
    width = lambda ratios: np.log(ratios.high / ratios.low)[0, 1]
    certain = diagnostics.compare_all(rows, WEIGHTS)
    uncertain = diagnostics.compare_all(rows, WEIGHTS, factors=np.ones(2), factor_replicates=times)
    assert width(uncertain) == pytest.approx(np.hypot(width(certain), 2 * 1.96 * 0.3 * np.sqrt(2)), rel=0.15)


def test_an_uncertain_factor_leaves_the_intervals_of_the_others():
    """The third of three times is known to 30 %, and all pairs have errors of their own."""
    rows = np.exp(0.1 * np.random.default_rng(0).normal(size=(3, 50)))
    times = np.exp(np.array([[0.0], [0.0], [0.3]]) * np.random.default_rng(1).normal(size=(3, 500)))
    width = lambda ratios: np.log(ratios.high / ratios.low)
    certain = width(diagnostics.compare_all(rows, WEIGHTS))
    uncertain = width(diagnostics.compare_all(rows, WEIGHTS, factors=np.ones(3), factor_replicates=times))
    assert uncertain[0, 1] == pytest.approx(certain[0, 1], rel=0.1)
    assert uncertain[0, 2] > 5 * certain[0, 2]


def test_critical_z_is_exceeded_with_the_stated_probability():
    assert diagnostics.critical_z(1, level=0.05) == pytest.approx(1.96, abs=0.001)
    assert 1 - (1 - 2 * stats.norm.sf(diagnostics.critical_z(1000, level=0.01))) ** 1000 == pytest.approx(
        0.01, rel=0.01
    )
    assert 2 * stats.t.sf(diagnostics.critical_z(10, draws=20), 19) == pytest.approx(1e-5, rel=1e-6)


def test_students_limit_is_exceeded_as_often_as_it_says():
    normal = np.random.default_rng(0).normal(size=(200_000, 10))
    t = np.abs(normal.mean(axis=1)) / (normal.std(axis=1, ddof=1) / np.sqrt(10))
    assert np.mean(t > diagnostics.students_t(1 - 1e-4, 10)) < 2e-4 < np.mean(t > 5)
    assert np.mean(t > diagnostics.students_t(0.95, 10)) == pytest.approx(0.05, abs=0.002)


def test_gradients_that_are_equal_up_to_rounding_are_not_told_apart():
    rng = np.random.default_rng(0)
    variances = 1 + 0.1 * rng.normal(size=(1, 20)) + 1e-7 * rng.normal(size=(6, 20))
    ratios = diagnostics.compare_all(variances, diagnostics.resampling(20, 500))
    assert np.all((ratios.low <= 1) & (ratios.high >= 1))
