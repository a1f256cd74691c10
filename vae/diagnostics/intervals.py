"""Confidence intervals and simultaneous comparisons, from numbers of independent chunks of draws."""

import functools
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float
from scipy import special

from vae.diagnostics.moments import ROUNDING

# The smallest standard error of a bootstrap replicate, relative to the standard error of the data. A replicate of
# almost equal chunks would have a standard error that is too small.
FLOOR = 0.05


def resampling(chunks: int, replicates: int = 2000, seed: int = 0) -> Float[np.ndarray, "B C"]:
    """Returns how often each of B bootstrap replicates counts each chunk; every row sums to C.

    Estimators that draw with the same keys stay paired if their figures are resampled with the same weights.
    """
    return np.random.default_rng(seed).multinomial(chunks, np.full(chunks, 1 / chunks), replicates).astype(float)


def interval(
    by_chunk: Float[Array | np.ndarray, "C"],
    weights: Float[np.ndarray, "B C"],
    confidence: float = 0.95,
    log: bool = False,
) -> tuple[float, float]:
    """Returns the studentized bootstrap interval (bootstrap-t) of the mean over chunks.

    Unlike the normal interval, it allows for the skewness of the draws (Hall 1988, "Theoretical comparison of bootstrap
    confidence intervals"). With `log` the interval is computed on the logarithmic scale, which suits a variance, and
    its upper half gets the factor `widening`.

    Returns:
      The two ends: the mean itself if no chunk differs, and NaN if a chunk is not finite.
    """
    by_chunk = np.asarray(by_chunk, np.float64)
    chunks = len(by_chunk)
    mean = np.mean(by_chunk)
    if not np.all(np.isfinite(by_chunk)):
        return np.nan, np.nan
    stderr = np.std(by_chunk, ddof=1) / np.sqrt(chunks)
    if stderr <= 1e-7 * abs(mean):  # rounding
        return float(mean), float(mean)
    # Sums of deviations from the mean; sums of the numbers themselves would cancel.
    shift = weights @ (by_chunk - mean) / chunks
    variance = weights @ np.square(by_chunk - mean) / chunks - np.square(shift)
    stderrs = np.maximum(np.sqrt(np.maximum(variance, 0) / (chunks - 1)), FLOOR * stderr)
    with np.errstate(divide="ignore", invalid="ignore"):  # the limit for a replicate whose mean is 0 is 0
        pivots = np.nan_to_num(np.log1p(shift / mean) / (stderrs / (mean + shift))) if log else shift / stderrs
    low, high = np.quantile(pivots, [0.5 + confidence / 2, 0.5 - confidence / 2])
    if log:
        relative = stderr / mean
        return float(mean * np.exp(-low * relative)), float(mean * np.exp(-high * relative * widening(relative)))
    return float(mean - low * stderr), float(mean - high * stderr)


def widening(stderr: float | Float[np.ndarray, "*any"]) -> float | Float[np.ndarray, "*any"]:
    """The factor by which an interval of a log variance is made wider, from the standard error of the log variance.

    Few draws of a gradient with heavy tails do not show the tails. The variance, its standard error and every
    replicate of the bootstrap are then too small. The factor is 1.1 where the variance is known to 5 %, and 2 where it
    is known to 50 %. The form is empirical; experiments/compare_estimators/README.md has the measured levels.
    """
    return 1 + 2 * stderr


def figure_interval(
    figure: str,
    by_chunk: Float[Array | np.ndarray, "C"],
    weights: Float[np.ndarray, "B C"],
    draws: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Returns the interval of a figure that `figures_by_chunk` returns, from its numbers by chunk of all `draws`."""
    low, high = interval(by_chunk, weights, confidence, log=figure == "variance")
    if figure == "snr":  # noise makes the size of a mean of n draws too large by up to this
        low = float(np.maximum(low - np.sqrt(2 / (np.pi * draws)), 0.0))
    return low, high


class Comparisons(NamedTuple):
    """Ratios of all pairs of E figures, row over column, `[E, E]`, with intervals that hold all at once."""

    ratio: Float[np.ndarray, "E E"]
    low: Float[np.ndarray, "E E"]
    high: Float[np.ndarray, "E E"]


def compare_all(
    by_chunk: Float[Array | np.ndarray, "E C"],
    weights: Float[np.ndarray, "B C"],
    confidence: float = 0.95,
    factors: Float[np.ndarray, "E"] | None = None,
    factor_replicates: Float[np.ndarray, "E B"] | None = None,
) -> Comparisons:
    """Returns the ratios of all pairs of figures, and simultaneous intervals of the ratios.

    With probability `confidence`, all intervals are right at once (familywise). On the logarithmic scale, half the
    width of each interval is its standard error times the quantile of the largest |log ratio - its mean| / standard
    error over all pairs in the same bootstrap replicate (the studentized max-T method of Westfall & Young 1993),
    and the part of it that comes from the figures gets the factor `widening`.

    Args:
      by_chunk: positive figures as numbers by chunk, whose mean is the figure, as `figures_by_chunk` returns.
      weights: as `resampling` returns.
      confidence: the familywise level.
      factors: a factor for each figure, such as a cost; by default 1.
      factor_replicates: bootstrap replicates of factors that are uncertain, such as times, independent of the figures.
    """
    by_chunk = np.asarray(by_chunk, np.float64)
    estimators, chunks = by_chunk.shape
    means = np.mean(by_chunk, axis=1)
    relative = by_chunk / means[:, None]
    products = (relative[:, None] * relative).reshape(-1, chunks)  # of all pairs of estimators, [E * E, C]
    factors = np.ones(estimators) if factors is None else np.asarray(factors, np.float64)
    log_figures = np.log(means * factors)
    log_ratio = log_figures[:, None] - log_figures
    if factor_replicates is None:
        log_factors = np.zeros((len(weights), estimators))
    else:
        log_factors = np.log(factor_replicates).T - np.log(factors)
    factor_shift = log_factors[:, :, None] - log_factors[:, None, :]  # [B, E, E]
    factor_variance = np.var(factor_shift, axis=0)

    def shift_and_stderr(weights):
        """The change of the log ratios of the figures by each row of weights, and its standard error, `[*, E, E]`."""
        mean = weights @ relative.T / chunks
        second = (weights @ products.T / chunks).reshape(-1, estimators, estimators) / (
            mean[:, :, None] * mean[:, None]
        )
        own = np.diagonal(second, axis1=1, axis2=2)
        square = np.maximum(own[:, :, None] + own[:, None] - 2 * second, 0) / (chunks - 1)
        return np.log(mean)[:, :, None] - np.log(mean)[:, None], np.sqrt(square)

    [figures_stderr] = shift_and_stderr(np.ones((1, chunks)))[1]
    stderr = np.sqrt(figures_stderr**2 + factor_variance)
    is_certain = stderr <= 1e-7  # the same draws, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):  # a replicate may have a mean of 0
        shift, stderrs = shift_and_stderr(weights)
        stderrs = np.sqrt(stderrs**2 + factor_variance)
        pivots = np.abs(shift + factor_shift) / np.maximum(stderrs, FLOOR * stderr)
    largest = np.max(np.where(is_certain | ~np.isfinite(pivots), 0, pivots), axis=(1, 2))
    wider = np.sqrt((figures_stderr * widening(figures_stderr)) ** 2 + factor_variance)
    reach = np.quantile(largest, confidence) * np.where(is_certain, 0, wider)
    # Equal gradients of two estimators may differ by rounding, which is no difference.
    reach = np.maximum(reach, np.where(np.eye(estimators, dtype=bool), 0, ROUNDING))
    return Comparisons(np.exp(log_ratio), np.exp(log_ratio - reach), np.exp(log_ratio + reach))


@functools.cache
def students_t(confidence: float, chunks: float) -> float:
    """Returns half the width of a mean's confidence interval, in standard errors estimated from `chunks` chunks."""
    return float(special.stdtrit(chunks - 1, 0.5 + confidence / 2))


def with_skewness(z: float, skewness: float) -> float:
    """Returns the quantile of a studentized skewed mean at the level where Student's t has the quantile z.

    `skewness` is that of the mean. A mean that is too small because large draws are missing has a standard error that
    is too small too. This is the inverse of Hall's cubic transformation z + g z^2 / 3 + g^2 z^3 / 27 + g / 6 (Hall
    1992, "On the removal of skewness by transformation").
    """
    if abs(skewness) < 1e-6:
        return z
    return float(3 / skewness * (np.cbrt(1 + skewness * (z - skewness / 6)) - 1))


def critical_z(size: float | Float[Array, ""], draws: float = np.inf, level: float = 1e-4) -> float:
    """Returns a bound that the largest |z| of `size` coordinates exceeds with probability at most `level` (Bonferroni).

    `draws` is the number of draws from which each standard error was estimated. Student's t allows for this number.
    """
    return -float(special.stdtrit(draws - 1, level / (2 * float(size))))
