"""Figures of merit made from moments: against the truth, and by chunk of draws."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Shaped

from vae.diagnostics.moments import ROUNDING, Moments, Truth, exact_products, parts, pool

PyTree = Any

# The smallest standard error that a coordinate may have, relative to the standard error of its layer. For a
# coordinate that rarely moves, the estimated standard error is too small.
FLOOR = 0.02
# Numbers in one row of `_Rows`.
WIDTH = 128
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
        scale_skewness    skewness of the error of `scale`
        norm              |t|
        mean_norm         |mean g|
        size              number of coordinates

    Standard errors combine the error of the draws and the error of the truth. The figures that need |t| are NaN if
    the reference is too noisy to estimate |t|.
    """
    rows = _Rows(truth.gradient)
    members = parts(truth.gradient)
    means, squares, truth_means = (rows.lay(tree, lead=1) for tree in (moments.mean, moments.square, truth.chunks))
    t, t_stderr = rows.lay(truth.gradient), rows.lay(truth.stderr)
    mean, variance = pool(means, squares, moments.size)
    varies, deviation = _deviation(mean, variance)
    bias = mean - t
    error = variance / (moments.size * len(means))
    truth_error = jnp.square(t_stderr)
    stderr = _stderr_with_floor(error + truth_error, t, rows)
    skewness = _third_moment_of_mean(means / stderr) - _third_moment_of_mean(truth_means / stderr)
    z = jnp.where(_can_be_tested(squares, mean, rows) & (bias != 0), _size_without_skewness(bias / stderr, skewness), 0)

    total = lambda by_coordinate: rows.over_parts(jnp.sum(by_coordinate, axis=-1), jnp.sum)  # [parts]
    bias_square, draws_error, reference_error = total(jnp.square(bias)), total(error), total(truth_error)
    inner = lambda a, b: rows.over_parts(jnp.einsum("cmw,rmw->crm", a, b), jnp.sum)  # [C, R, parts]
    square, scale, scale_stderr, scale_skewness = jax.vmap(_scale_along_truth, in_axes=-1)(
        inner(means, truth_means), inner(truth_means, truth_means)
    )
    norm = jnp.sqrt(square)
    squared_stderr = draws_error + reference_error
    figures = {
        "max_abs_z": rows.over_parts(jnp.max(z, axis=-1), jnp.max),
        "relative_bias": jnp.sqrt(bias_square) / norm,
        "relative_stderr": jnp.sqrt(squared_stderr) / norm,
        "deviation": jnp.sqrt(bias_square / jnp.maximum(squared_stderr, jnp.finfo(norm.dtype).tiny)),
        "truth_stderr": jnp.where(reference_error > 0, jnp.sqrt(reference_error) / norm, 0.0),
        "scale": scale,
        "scale_stderr": scale_stderr,
        "scale_skewness": scale_skewness,
        "variance": total(variance),
        "snr": total(jnp.where(varies, jnp.abs(mean) / deviation, 0)) / total(varies),
        "dsnr": jnp.mean(jnp.stack([moments.dsnr[part] for part in members]), axis=1),
        "cosine": jnp.mean(jnp.stack([moments.cosine[part] for part in members]), axis=1),
        "norm": norm,
        "mean_norm": jnp.sqrt(total(jnp.square(mean))),
        "size": jnp.asarray([sum(rows.sizes[i] for i in leaves) for leaves in members.values()], jnp.float32),
    }
    return {part: {key: values[i] for key, values in figures.items()} for i, part in enumerate(members)}


class _Rows:
    """The coordinates of all leaves in rows of equal width.

    A leaf fills whole rows; zeros fill the rest of its last row. A network has dozens of leaves, and one sum over rows
    compiles many times as fast as a sum for each leaf.
    """

    def __init__(self, gradient: PyTree):
        """Only the shapes of `gradient` count."""
        self.sizes = [leaf.size for leaf in jax.tree.leaves(gradient)]
        self.leaf = np.repeat(np.arange(len(self.sizes)), [-(-size // WIDTH) for size in self.sizes])  # [M]
        self.parts = parts(gradient)

    def lay(self, tree: PyTree, lead: int = 0) -> Float[Array, "*lead M width"]:
        """The rows of a gradient whose leaves have `lead` leading axes."""

        def one(leaf):
            flat = leaf.reshape(*leaf.shape[:lead], -1)
            flat = jnp.pad(flat, [*lead * [(0, 0)], (0, -flat.shape[-1] % WIDTH)])
            return flat.reshape(*leaf.shape[:lead], -1, WIDTH)

        return jnp.concatenate([one(leaf) for leaf in jax.tree.leaves(tree)], axis=lead)

    def over_leaves(self, values: Shaped[Array, "*lead M"], reduce: Callable) -> Shaped[Array, "*lead L"]:
        """The sum or the maximum of numbers from 0 upwards over the rows of each leaf."""
        return self._over(self.leaf == np.arange(len(self.sizes))[:, None], values, reduce)

    def over_parts(self, values: Shaped[Array, "*lead M"], reduce: Callable) -> Shaped[Array, "*lead parts"]:
        """The sum or the maximum of numbers from 0 upwards over the rows of each part."""
        return self._over(np.stack([np.isin(self.leaf, leaves) for leaves in self.parts.values()]), values, reduce)

    def of_leaf(self, by_leaf: Shaped[Array, "L"]) -> Shaped[Array, "M 1"]:
        """The value of each row's leaf."""
        return by_leaf[self.leaf][:, None]

    def _over(self, is_member, values, reduce):
        return reduce(jnp.where(is_member, values[..., None, :], 0), axis=-1)


def _can_be_tested(
    squares: Float[Array, "C M width"], mean: Float[Array, "M width"], rows: _Rows
) -> Bool[Array, "M width"]:
    """The coordinates whose mean can be compared with the truth.

    A coordinate that moves in every chunk can be tested, because its mean is about normal. A coordinate that keeps a
    value other than 0 in all draws can be tested, because it is exact. A coordinate that moves in some chunks only,
    such as the weight of a unit that is seldom active, cannot be tested. Neither can one that stays at 0, because it
    may move so rarely that no draw has shown it. If the whole leaf stays at 0, however, its gradient is lost.
    """
    moves = squares > 0
    is_constant = ~jnp.any(moves, axis=0)
    is_lost = rows.over_leaves(jnp.any(~is_constant | (mean != 0), axis=-1), jnp.sum) == 0  # [L]
    return jnp.all(moves, axis=0) | (is_constant & ((mean != 0) | rows.of_leaf(is_lost)))


def _stderr_with_floor(
    square: Float[Array, "M width"], truth: Float[Array, "M width"], rows: _Rows
) -> Float[Array, "M width"]:
    """The standard error of each coordinate, from its square, with the floor that `FLOOR` and rounding give."""
    by_leaf = rows.over_leaves(jnp.sum(square, axis=-1), jnp.sum) / np.array(rows.sizes, np.float32)
    rounding = ROUNDING**2 * jnp.sum(jnp.square(truth))
    return jnp.sqrt(square + FLOOR**2 * rows.of_leaf(by_leaf) + rounding)


def _size_without_skewness(z: Float[Array, "*any"], skewness: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """|z|, or less if the skewness makes a large |z| likely (Hall's transformation; see `intervals.with_skewness`)."""
    transformed = z + skewness * z**2 / 3 + skewness**2 * z**3 / 27 + skewness / 6
    return jnp.fmin(jnp.abs(z), jnp.abs(transformed))  # where z is infinite, the other one may be NaN


def _scale_along_truth(products: Float[Array, "C R"], gram: Float[Array, "R R"]) -> tuple[Array, Array, Array, Array]:
    """Returns |t|^2, the length of the mean gradient along t over |t|, and that ratio's standard error and skewness.

    Args:
      products: inner products of the C chunks of draws with the R chunks of the truth; R = 1 for an exact truth.
      gram: inner products of the truth's chunks.

    The square of a noisy mean is too large, so |t|^2 is the mean product of *different* chunks t_r of the reference.
    The jackknife estimates the error that comes from the noise of the reference: the spread of the chunks' influences
    on the ratio. If chance makes the reference m times too long, the ratio is divided by m and the estimated error by
    m^2, so an unbiased estimator would look biased. A ratio below 1 therefore gets the error that a ratio of 1 has.
    """
    truth_chunks = len(gram)
    if truth_chunks == 1:
        square = gram[0, 0]
        scales = products[:, 0] / square
        return square, jnp.mean(scales), *_error_of_means([scales])
    own = jnp.diag(gram)
    square = (jnp.sum(gram) - jnp.sum(own)) / (truth_chunks * (truth_chunks - 1))
    square = jnp.where(square > 0, square, jnp.nan)
    scales = jnp.mean(products, axis=1) / square  # [C]
    scale = jnp.mean(scales)
    with_others = (jnp.sum(gram, axis=1) - own) / (truth_chunks - 2)  # [R], products of t_r with the other chunks
    influence = jnp.mean(products, axis=0) - (scale + jnp.maximum(1, jnp.abs(scale))) * with_others  # [R]
    return square, scale, *_error_of_means([scales, influence / square])


def _error_of_means(samples: list[Float[Array, "_"]]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The standard error and the skewness of a sum of independent means, one for each sample of numbers."""
    variance = sum(jnp.var(sample, ddof=1) / len(sample) for sample in samples)
    third = sum(map(_third_moment_of_mean, samples))
    return jnp.sqrt(variance), third / jnp.maximum(variance**1.5, jnp.finfo(variance.dtype).tiny)


def _third_moment_of_mean(sample: Float[Array, "C *leaf"]) -> Float[Array, "*leaf"]:
    """The third central moment of the mean of C numbers.

    A skewness that C normal numbers have by chance, up to sqrt(6 / C), counts as 0, and a larger one is reduced by it.
    """
    deviations = sample - jnp.mean(sample, axis=0)
    cube = jnp.mean(deviations**3, axis=0)
    by_chance = math.sqrt(6 / len(sample)) * jnp.mean(jnp.square(deviations), axis=0) ** 1.5
    return jnp.sign(cube) * jnp.maximum(jnp.abs(cube) - by_chance, 0) / len(sample) ** 2


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
    rows = _Rows(jax.tree.map(lambda leaf: leaf[0], moments.mean))
    means, squares = rows.lay(moments.mean, lead=1), rows.lay(moments.square, lead=1)
    chunks, size = len(means), moments.size
    mean, variance = pool(means, squares, size)
    varies, deviation = _deviation(mean, variance)
    spread = squares + size * jnp.square(means - mean)  # squared deviations from the common mean, [C, M, width]

    # The moments of all chunks but one. If all variance comes from the chunk that is left out, the variance of the
    # others would be a rounding error, so a floor replaces it.
    shift = (mean - means) / (chunks - 1)
    rest = variance * (size * chunks - 1) - spread - size * (chunks - 1) * jnp.square(shift)
    others_variance = jnp.maximum(rest / (size * (chunks - 1) - 1), 1e-3 * jnp.square(deviation))

    total = lambda by_coordinate: rows.over_parts(jnp.sum(by_coordinate, axis=-1), jnp.sum)
    ratio = total(jnp.where(varies, jnp.abs(mean) / deviation, 0))  # [parts]
    others_ratio = total(jnp.where(varies, jnp.abs(mean + shift) / jnp.sqrt(others_variance), 0))  # [C, parts]
    ratio_by_chunk = ratio + (chunks - 1) * (jnp.mean(others_ratio, axis=0) - others_ratio)
    variance = total(spread) * chunks / (size * chunks - 1)
    snr = ratio_by_chunk / total(varies)
    return {
        part: {
            "variance": variance[:, i],
            "snr": snr[:, i],
            "dsnr": moments.dsnr[part],
            "cosine": moments.cosine[part],
        }
        for i, part in enumerate(rows.parts)
    }
