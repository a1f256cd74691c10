"""Figures of merit made from moments: against the truth, and by chunk of draws."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from vae.diagnostics.moments import ROUNDING, Moments, Truth, exact_products, parts, pool

# The smallest standard error that a coordinate may have, relative to the standard error of its layer. For a
# coordinate that rarely moves, the estimated standard error is too small.
FLOOR = 0.02
# The figures that `figures_by_chunk` returns.
FIGURES = ("variance", "snr", "dsnr", "cosine")


@exact_products
def report(moments: Moments, truth: Truth) -> dict[str, dict[str, Float[Array, ""]]]:
    """Returns the figures of every part: the figures in the docstring of `vae.diagnostics`, and

        relative_bias     |mean g - t| / |t|; chance alone gives about relative_stderr
        relative_stderr   |standard errors of mean g| / |t|
        deviation         |mean g - t| / |standard errors|, about 1 by chance, even where t is 0
        truth_stderr      |standard errors of t| / |t|
        scale_stderr      standard error of `scale`, from the spread of the chunks; see `_scale_along_truth`
        norm              |t|
        size              number of coordinates

    Standard errors combine the error of the draws and the error of the truth. The figures that need |t| are NaN if
    the reference is too noisy to estimate |t|.
    """
    gradients = (moments.mean, moments.square, truth.gradient, truth.stderr)
    leaves = list(zip(*map(jax.tree.leaves, gradients), strict=True))
    sums = [
        _sums_over_coordinates(*leaf, chunks, moments.size)
        for leaf, chunks in zip(leaves, jax.tree.leaves(truth.chunks), strict=True)
    ]
    rounding = ROUNDING * jnp.sqrt(sum(jnp.sum(jnp.square(t)) for _, _, t, _ in leaves))
    largest_z = [_largest_z(*leaf, moments.size, rounding) for leaf in leaves]
    figures = {}
    for name, members in parts(truth.gradient).items():
        total = {key: sum(sums[i][key] for i in members) for key in sums[0]}
        square, scale, scale_stderr = _scale_along_truth(total["products"], total["gram"])
        norm = jnp.sqrt(square)
        squared_stderr = total["error"] + total["truth_error"]
        smallest = jnp.finfo(norm.dtype).tiny
        figures[name] = {
            "max_abs_z": jnp.max(jnp.stack([largest_z[i] for i in members])),
            "relative_bias": jnp.sqrt(total["bias"]) / norm,
            "relative_stderr": jnp.sqrt(squared_stderr) / norm,
            "deviation": jnp.sqrt(total["bias"] / jnp.maximum(squared_stderr, smallest)),
            "truth_stderr": jnp.where(total["truth_error"] > 0, jnp.sqrt(total["truth_error"]) / norm, 0.0),
            "scale": scale,
            "scale_stderr": scale_stderr,
            "variance": total["variance"],
            "snr": total["snr"] / total["varying"],
            "dsnr": jnp.mean(moments.dsnr[name]),
            "cosine": jnp.mean(moments.cosine[name]),
            "norm": norm,
            "size": total["size"],
        }
    return figures


def _sums_over_coordinates(means, squares, truth, truth_stderr, truth_chunks, size) -> dict[str, Array]:
    """The sums over the coordinates of one leaf from which `report` makes its figures.

    `products` `[C, R]` and `gram` `[R, R]` are the inner products of the means of the draws' chunks and of the truth's
    chunks with the means of the truth's chunks.
    """
    mean, variance = pool(means, squares, size)
    varies, deviation = _deviation(mean, variance)
    flat_truth = truth_chunks.reshape(len(truth_chunks), -1)
    return {
        "bias": jnp.sum(jnp.square(mean - truth)),
        "error": jnp.sum(variance) / (size * len(means)),
        "truth_error": jnp.sum(jnp.square(truth_stderr)),
        "products": means.reshape(len(means), -1) @ flat_truth.T,
        "gram": flat_truth @ flat_truth.T,
        "variance": jnp.sum(variance),
        "snr": jnp.sum(jnp.where(varies, jnp.abs(mean) / deviation, 0)),
        "varying": jnp.sum(varies),
        "size": jnp.asarray(mean.size, jnp.float32),
    }


def _largest_z(means, squares, truth, truth_stderr, size, rounding) -> Float[Array, ""]:
    """The largest |mean g_i - t_i| / standard error in one leaf, over the coordinates that can be tested."""
    mean, variance = pool(means, squares, size)
    moves = squares > 0  # [C, ...]
    # A coordinate that moves in every chunk can be tested, because its mean is about normal. A coordinate that keeps a
    # value other than 0 in all draws can be tested, because it is exact. A coordinate that moves in some chunks only,
    # such as the weight of a unit that is seldom active, cannot be tested. Neither can one that stays at 0, because it
    # may move so rarely that no draw has shown it. If the whole leaf stays at 0, however, its gradient is lost.
    is_constant = ~jnp.any(moves, axis=0)
    is_lost = jnp.all(is_constant & (mean == 0))
    can_be_tested = jnp.all(moves, axis=0) | (is_constant & ((mean != 0) | is_lost))
    bias = mean - truth
    square = variance / (size * len(means)) + jnp.square(truth_stderr)
    z = jnp.abs(bias) / jnp.sqrt(square + FLOOR**2 * jnp.mean(square) + jnp.square(rounding))
    return jnp.max(jnp.where(can_be_tested & (bias != 0), z, 0))  # without a bias, z may be 0 / 0


def _scale_along_truth(products: Float[Array, "C R"], gram: Float[Array, "R R"]) -> tuple[Array, Array, Array]:
    """Returns |t|^2, the length of the mean gradient along t over |t|, and the standard error of that ratio.

    Args:
      products: inner products of the C chunks of draws with the R chunks of the truth; R = 1 for an exact truth.
      gram: inner products of the truth's chunks.

    The square of a noisy mean is too large, so |t|^2 is the mean product of *different* chunks t_r of the reference.
    The jackknife estimates the error that comes from the noise of the reference: the spread of the chunks' influences
    on the ratio. If chance makes the reference m times too long, the ratio is divided by m and the estimated error by
    m^2, so an unbiased estimator would look biased. A ratio below 1 therefore gets the error that a ratio of 1 has.
    """
    draws_chunks, truth_chunks = products.shape
    if truth_chunks == 1:
        square = gram[0, 0]
        scales = products[:, 0] / square
        return square, jnp.mean(scales), jnp.std(scales, ddof=1) / math.sqrt(draws_chunks)
    own = jnp.diag(gram)
    square = (jnp.sum(gram) - jnp.sum(own)) / (truth_chunks * (truth_chunks - 1))
    square = jnp.where(square > 0, square, jnp.nan)
    scales = jnp.mean(products, axis=1) / square  # [C]
    scale = jnp.mean(scales)
    with_others = (jnp.sum(gram, axis=1) - own) / (truth_chunks - 2)  # [R], products of t_r with the other chunks
    influence = jnp.mean(products, axis=0) - (scale + jnp.maximum(1, jnp.abs(scale))) * with_others  # [R]
    draws_error = jnp.var(scales, ddof=1) / draws_chunks
    truth_error = jnp.var(influence / square, ddof=1) / truth_chunks
    return square, scale, jnp.sqrt(draws_error + truth_error)


def _deviation(
    mean: Float[Array, "*leaf"], variance: Float[Array, "*leaf"]
) -> tuple[Bool[Array, "*leaf"], Float[Array, "*leaf"]]:
    """The coordinates that vary by more than rounding, and their standard deviations; 1 for the other coordinates."""
    varies = variance > jnp.square(ROUNDING * mean)
    return varies, jnp.sqrt(jnp.where(varies, variance, 1))


@exact_products
def figures_by_chunk(moments: Moments) -> dict[str, dict[str, Float[Array, "C"]]]:
    """Returns `FIGURES` of every part as C numbers, one for each chunk, whose mean is the figure in `report`.

    Chunks are independent, so `interval` and `compare_all` resample these numbers. For dsnr and cosine, the
    number of a chunk is the chunk's mean. For the variance, it is the chunk's share of the squared deviations. For the
    snr, it is the jackknife's pseudo-value, shifted so that the mean over chunks is the figure.
    """
    pairs = zip(jax.tree.leaves(moments.mean), jax.tree.leaves(moments.square), strict=True)
    leaves = [_sums_by_chunk(mean, square, moments.size) for mean, square in pairs]
    figures = {}
    for name, members in parts(moments.mean).items():
        variance, snr, varying = (sum(leaves[i][k] for i in members) for k in range(3))
        figures[name] = {
            "variance": variance,
            "snr": snr / varying,
            "dsnr": moments.dsnr[name],
            "cosine": moments.cosine[name],
        }
    return figures


def _sums_by_chunk(means: Array, squares: Array, size: Array) -> tuple[Array, Array, Array]:
    """For one leaf: its variance and its sum of |mean| / deviation, both by chunk `[C]`, and the number of terms."""
    chunks = len(means)
    means, squares = (leaf.reshape(chunks, -1) for leaf in (means, squares))
    mean, variance = pool(means, squares, size)
    varies, deviation = _deviation(mean, variance)
    spread = squares + size * jnp.square(means - mean)  # squared deviations from the common mean, [C, N]

    # The moments of all chunks but one. If all variance comes from the chunk that is left out, the variance of the
    # others would be a rounding error, so a floor replaces it.
    shift = (mean - means) / (chunks - 1)
    total = variance * (size * chunks - 1) - spread - size * (chunks - 1) * jnp.square(shift)
    others_variance = jnp.maximum(total / (size * (chunks - 1) - 1), 1e-3 * jnp.square(deviation))
    ratio = jnp.sum(jnp.where(varies, jnp.abs(mean) / deviation, 0))
    others_ratio = jnp.sum(jnp.where(varies, jnp.abs(mean + shift) / jnp.sqrt(others_variance), 0), axis=1)  # [C]

    variance_by_chunk = jnp.sum(spread, axis=1) * chunks / (size * chunks - 1)
    ratio_by_chunk = ratio + (chunks - 1) * (jnp.mean(others_ratio) - others_ratio)
    return variance_by_chunk, ratio_by_chunk, jnp.sum(varies)
