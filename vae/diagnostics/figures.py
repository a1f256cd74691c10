"""Figures of merit made from moments, their bootstrap replicates, and intervals."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from vae.diagnostics.moments import ROUNDING, Moments, Truth, exact_products, parts, pool

# The smallest standard error that a coordinate may have, relative to the standard error of its layer. The estimated
# standard error of a coordinate that rarely moves is too small.
FLOOR = 0.02
# The figures that `bootstrap` resamples.
FIGURES = ("variance", "snr", "dsnr", "cosine")


@exact_products
def report(moments: Moments, truth: Truth) -> dict[str, dict[str, Float[Array, ""]]]:
    """Returns the figures of every part: the figures in the docstring of `vae.diagnostics`, and

        relative_bias     |mean g - t| / |t|, which is noise up to about relative_stderr
        relative_stderr   |standard errors of mean g| / |t|
        deviation         |mean g - t| / |standard errors|, about 1 by chance, even where t is 0
        truth_stderr      |standard errors of t| / |t|
        scale_stderr      standard error of `scale`, from the spread of the chunks
        norm              |t|
        size              number of coordinates

    Standard errors combine the error of the draws and the error of the truth. Noise in the truth makes |t|^2 too large
    on average. The excess is subtracted, because `scale` would otherwise be below 1 for every unbiased estimator.
    """
    flat = [jax.tree.leaves(tree) for tree in (moments.mean, moments.square, truth.gradient, truth.stderr)]
    chunks = len(flat[0][0])
    rounding = ROUNDING * jnp.sqrt(sum(jnp.sum(jnp.square(t)) for t in flat[2]))
    leaves = [_sums_of_leaf(*leaf, moments.size, rounding) for leaf in zip(*flat, strict=True)]
    figures = {}
    for name, members in parts(truth.gradient).items():
        sums = {key: sum(leaves[i][key] for i in members) for key in leaves[0] if key != "max_abs_z"}
        square = jnp.maximum(sums["truth"] - sums["truth_error"], 0)
        norm = jnp.sqrt(square)
        scales = sums["scales"] / square  # [C]
        squared_stderr = sums["error"] + sums["truth_error"]
        smallest = jnp.finfo(norm.dtype).tiny
        squared_errors_of_scale = (
            jnp.var(scales, ddof=1) / chunks,
            jnp.square(truth.along[name]),
            2 * sums["truth_fourth"] / square**2,  # from |t|^2, whose expected excess is subtracted above
        )
        figures[name] = {
            "max_abs_z": jnp.max(jnp.stack([leaves[i]["max_abs_z"] for i in members])),
            "relative_bias": jnp.sqrt(sums["bias"]) / norm,
            "relative_stderr": jnp.sqrt(squared_stderr) / norm,
            "deviation": jnp.sqrt(sums["bias"] / jnp.maximum(squared_stderr, smallest)),
            "truth_stderr": jnp.where(sums["truth_error"] > 0, jnp.sqrt(sums["truth_error"]) / norm, 0.0),
            "scale": jnp.mean(scales),
            "scale_stderr": jnp.sqrt(sum(squared_errors_of_scale)),
            "variance": sums["variance"],
            "snr": sums["snr"] / sums["varying"],
            "dsnr": jnp.mean(moments.dsnr[name]),
            "cosine": jnp.mean(moments.cosine[name]),
            "norm": norm,
            "size": sums["size"],
        }
    return figures


def _sums_of_leaf(means, squares, truth, truth_stderr, size, rounding) -> dict[str, Array]:
    """Returns sums over the coordinates of one leaf, from which `report` makes its figures; `scales` is `[C]`."""
    mean, variance = pool(means, squares, size)
    bias = mean - truth
    error = variance / (size * len(means))
    varies, deviation = _deviation(mean, variance)
    # A coordinate that did not move in some chunk moves only in rare draws, like the weight of a unit that is seldom
    # active. Its mean is not normal, and its variance is unknown until a rare draw occurs, so it is not judged. A
    # coordinate that keeps one value other than 0 in all draws is exact, and is judged.
    still = squares == 0
    judged = ~jnp.any(still, axis=0) | (jnp.all(still, axis=0) & (mean != 0))
    judged |= jnp.all(still) & jnp.all(mean == 0)  # a layer of zeros has lost its gradient: judge it
    square = error + jnp.square(truth_stderr)
    z = jnp.abs(bias) / jnp.sqrt(square + FLOOR**2 * jnp.mean(square) + jnp.square(rounding))
    return {
        "max_abs_z": jnp.max(jnp.where(judged & (bias != 0), z, 0)),  # without a bias, z may be 0 / 0
        "bias": jnp.sum(jnp.square(bias)),
        "error": jnp.sum(error),
        "truth": jnp.sum(jnp.square(truth)),
        "truth_error": jnp.sum(jnp.square(truth_stderr)),
        "truth_fourth": jnp.sum(truth_stderr**4),
        "scales": jnp.tensordot(means, truth, axes=truth.ndim),
        "variance": jnp.sum(variance),
        "snr": jnp.sum(jnp.where(varies, jnp.abs(mean) / deviation, 0)),
        "varying": jnp.sum(varies),
        "size": jnp.asarray(mean.size, jnp.float32),
    }


def _deviation(
    mean: Float[Array, "*leaf"], variance: Float[Array, "*leaf"]
) -> tuple[Bool[Array, "*leaf"], Float[Array, "*leaf"]]:
    """The coordinates that vary by more than rounding, and their standard deviations; 1 for the other coordinates."""
    varies = variance > jnp.square(ROUNDING * mean)
    return varies, jnp.sqrt(jnp.where(varies, variance, 1))


def bootstrap(moments: Moments, key: Array, replicates: int = 4000) -> dict[str, dict[str, Float[Array, "B"]]]:
    """Returns `FIGURES` of every part for each of `replicates` resamplings of the chunks, `[replicates]`.

    The same key and number of chunks give the same resamplings for every estimator. If two estimators also share the
    keys of their draws, a ratio of their replicates is therefore a ratio of paired quantities.
    """
    chunks = len(jax.tree.leaves(moments.mean)[0])
    picks = jax.random.randint(key, (replicates, chunks), 0, chunks)
    return resample(moments, jnp.sum(jax.nn.one_hot(picks, chunks, dtype=jnp.float32), axis=1))


@exact_products
def resample(moments: Moments, weights: Array | np.ndarray) -> dict[str, dict[str, Float[Array, "B"]]]:
    """Returns `FIGURES` of every part if replicate b counts chunk c weights_bc times.

    Every row of `weights` `[B, C]` sums to C. The variance is a quadratic form in the means of the chunks, so it only
    needs their inner products. The snr is linearized in the weights, as in the infinitesimal jackknife: resampling each
    coordinate would cost more than the gradients themselves, and the resampled noise would raise the noise floor.
    """
    chunks = weights.shape[-1]
    pairs = zip(jax.tree.leaves(moments.mean), jax.tree.leaves(moments.square), strict=True)
    leaves = [_chunks_of_leaf(mean, square, moments.size) for mean, square in pairs]
    replicates = {}
    for name, members in parts(moments.mean).items():
        sums = {key: sum(leaves[i][key] for i in members) for key in leaves[0]}
        gram = sums["gram"]
        between = weights @ jnp.diag(gram) - jnp.einsum("bc,cd,bd->b", weights, gram, weights) / chunks
        replicates[name] = {
            "variance": (weights @ sums["square"] + moments.size * between) / (moments.size * chunks - 1),
            "snr": (sums["snr"] + weights @ sums["snr_slope"] / chunks) / sums["varying"],
            "dsnr": weights @ moments.dsnr[name] / chunks,
            "cosine": weights @ moments.cosine[name] / chunks,
        }
    return replicates


def _chunks_of_leaf(means: Array, squares: Array, size: Array) -> dict[str, Array]:
    """Returns the sums over the coordinates of one leaf that `resample` needs, `[]`, `[C]` or `[C, C]`."""
    means = means.reshape(len(means), -1)
    squares = squares.reshape(len(squares), -1)
    mean, variance = pool(means, squares, size)
    varies, deviation = _deviation(mean, variance)
    centred = means - mean  # small compared with the mean, so that nothing cancels below
    by_mean = jnp.where(varies, jnp.sign(mean) / deviation, 0)
    by_variance = jnp.where(varies, -jnp.abs(mean) / (2 * deviation**3), 0)
    variances = squares @ by_variance / size + jnp.square(centred) @ by_variance  # [C]
    return {
        "square": jnp.sum(squares, axis=1),
        "gram": centred @ centred.T,
        "snr": jnp.sum(jnp.where(varies, jnp.abs(mean) / deviation, 0)),
        "snr_slope": centred @ by_mean + variances - jnp.mean(variances),
        "varying": jnp.sum(varies),
    }


def interval(replicates, chunks: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the expanded percentile interval of bootstrap replicates (Hesterberg 2015, arXiv:1411.5279).

    With few chunks C, the plain percentile interval is too narrow for two reasons: it lacks the factor
    sqrt(C / (C - 1)), and it uses the quantile of the normal distribution in place of Student's t.
    """
    from scipy import stats

    reach = math.sqrt(chunks / (chunks - 1)) * students_t(confidence, chunks)
    tail = stats.norm.cdf(-reach)
    low, high = np.quantile(np.asarray(replicates, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def students_t(confidence: float, chunks: int) -> float:
    """Returns half the width of a mean's confidence interval, in standard errors estimated from `chunks` chunks."""
    from scipy import stats

    return float(stats.t.ppf(0.5 + confidence / 2, chunks - 1))


def critical_z(size: float | Float[Array, ""], level: float = 1e-4) -> float:
    """Returns a bound that the largest |z| of `size` standard normals exceeds with probability at most `level`
    (Bonferroni)."""
    return -statistics.NormalDist().inv_cdf(level / (2 * size))
