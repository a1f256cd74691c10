"""Moments of a gradient estimate over many draws, and the true gradient that the draws are compared with."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from vae.estimators.contract import Estimator, bind

PyTree = Any

# Rounding error of float32 sums, relative to the norm of the whole gradient. It does not shrink with more draws.
ROUNDING = 1e-6
# Sums over fewer draws are unrolled.
UNROLLED = 8
# Means over draws and chunks are matrix products, which accelerators round to 8 or 11 bits by default.
exact_products = jax.default_matmul_precision("highest")


class Moments(NamedTuple):
    """Moments of C chunks with n draws each.

    Attributes:
      mean: mean of each chunk: the gradient's pytree, each leaf `[C, ...]`.
      square: sum of squared deviations from the chunk's own mean, in the same structure.
      dsnr: mean directional SNR of each chunk, by part, `[C]`; NaN without a truth.
      cosine: mean cosine of each chunk, by part, `[C]`; NaN without a truth.
      size: the number n of draws in each chunk.
    """

    mean: PyTree
    square: PyTree
    dsnr: dict[str, Array]
    cosine: dict[str, Array]
    size: Array


class Truth(NamedTuple):
    """The true gradient, or a good estimate of it.

    Attributes:
      gradient: the gradient's pytree.
      stderr: standard error of each coordinate, in the same structure; zero for an exact gradient.
      chunks: the means of the R chunks of draws that an estimate averages, in the same structure, each leaf `[R, ...]`;
        R = 1 for an exact gradient.
    """

    gradient: PyTree
    stderr: PyTree
    chunks: PyTree


def exactly(gradient: PyTree) -> Truth:
    """Returns a truth whose standard errors are zero."""
    gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradient)
    chunks = jax.tree.map(lambda leaf: leaf[None], gradient)
    return Truth(gradient, stderr=jax.tree.map(jnp.zeros_like, gradient), chunks=chunks)


def make_gradient(bound: Callable, estimator: Estimator) -> Callable:
    """Returns `gradient(key, params, data, learned, counted, context)`: one estimate of the gradient in `params` of the
    batch's mean bound, in the direction of ascent. Only the key and the params have no defaults.

    `bound(params, data, expect) -> Estimate` is an objective with its model. For a model of `vae.make_vae`:

        bound = lambda params, x, expect: vae.elbo(model.apply, {"params": params}, x, expect)

    `params` is a pytree of float arrays, such as a dict of groups, and `data` is the other input of the bound.
    `learned` and `counted` are the estimator's own params and state, as its `init` returns them; they stay fixed.
    `context` is the input of an input-dependent baseline.
    """

    def gradient(key: Array | None, params, data=None, learned=None, counted=None, context=None) -> PyTree:
        expect = bind(estimator, learned, counted, key, context)
        return jax.grad(lambda params: jnp.mean(bound(params, data, expect).value))(params)

    return gradient


def groups(gradient: PyTree) -> list[str]:
    """Returns the names of the groups, which are the children of the pytree: "params" for a single array."""
    if isinstance(gradient, Mapping):
        return list(map(str, gradient))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(gradient)]
    return list(dict.fromkeys(_name(path[:1]) or "params" for path in paths))


def parts(gradient: PyTree) -> dict[str, list[int]]:
    """Returns the names of the groups and of their layers, each with the indices of its leaves in `jax.tree.leaves`.

    The leaves of a layer share their whole path except the last name. In a group without layers, every leaf counts as
    a layer.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(gradient)]
    members: dict[str, list[int]] = {}
    for group in groups(gradient):
        leaves = [i for i, path in enumerate(paths) if (_name(path[:1]) or "params") == group]
        members[group] = leaves
        flat = all(len(paths[i]) <= 2 for i in leaves)
        for i in leaves if len(leaves) > 1 else []:
            members.setdefault(_name(paths[i] if flat else paths[i][:-1]), []).append(i)
    return members


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def draw_gradients(
    gradient: Callable[[Array], PyTree], key: Array, first: Array | int, number: int, side_by_side: bool = False
) -> PyTree:
    """Returns `gradient(fold_in(key, i))` for first <= i < first + number: a pytree with leaves `[number, ...]`.

    `side_by_side` draws the gradients by `vmap`, which is right for small problems. Otherwise they are drawn one after
    the other, which is right for networks.
    """
    draw = lambda i: gradient(jax.random.fold_in(key, i))
    indices = first + jnp.arange(number)
    return jax.vmap(draw)(indices) if side_by_side else jax.lax.map(draw, indices)


class RunningMoments(NamedTuple):
    """Moments of the draws of one chunk so far.

    Attributes:
      count: the number of draws.
      mean: their mean, in the gradient's structure.
      square: the sum of their squared deviations from the mean, in the same structure.
      directed: means of dsnr and cosine by part, `[2]`; NaN without a truth.
    """

    count: Array
    mean: PyTree
    square: PyTree
    directed: dict[str, Array]


def no_moments(gradient: PyTree) -> RunningMoments:
    """Returns the moments before the first draw. Only the shapes of `gradient` count."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), gradient)
    directed = {name: jnp.zeros(2, jnp.float32) for name in parts(gradient)}
    return RunningMoments(jnp.zeros((), jnp.int32), zeros, zeros, directed)


@exact_products
def add_gradients(
    running: RunningMoments, gradients: PyTree, truth: Truth | None = None, directed_every: int = 1
) -> RunningMoments:
    """Returns the moments after further draws (Chan, Golub & LeVeque 1979).

    Args:
      running: the moments of the draws so far.
      gradients: the new draws, each leaf `[number, ...]`; `draw_gradients` makes them.
      truth: the true gradient, as in `gradient_moments`.
      directed_every: as in `gradient_moments`.
    """
    number = len(jax.tree.leaves(gradients)[0])
    total = running.count + number
    new_share = number / total
    old_share = running.count / total
    centre = jax.tree.map(lambda leaf: _sum_over_draws(leaf) / number, gradients)
    spread = jax.tree.map(lambda leaf, c: _sum_over_draws(jnp.square(leaf - c)), gradients, centre)
    delta = jax.tree.map(jnp.subtract, centre, running.mean)
    mean = jax.tree.map(lambda m, d: m + d * new_share, running.mean, delta)
    square = jax.tree.map(lambda s, r, d: s + r + jnp.square(d) * (number * old_share), running.square, spread, delta)
    directed = _add_directions(running, gradients, truth, directed_every)
    return RunningMoments(total, mean, square, directed)


def join_chunks(chunks: RunningMoments) -> Moments:
    """Returns the moments of C chunks of equal size, from running moments whose leaves begin with an axis `[C]`."""
    return Moments(
        mean=chunks.mean,
        square=chunks.square,
        dsnr={name: pair[:, 0] for name, pair in chunks.directed.items()},
        cosine={name: pair[:, 1] for name, pair in chunks.directed.items()},
        size=chunks.count[0].astype(jnp.float32),
    )


def gradient_moments(
    gradient: Callable[[Array], PyTree],
    key: Array,
    draws: int,
    chunks: int = 20,
    block: int = 1,
    truth: Truth | None = None,
    directed_every: int = 1,
) -> Moments:
    """Moments of `gradient(fold_in(key, i))` over i < draws. The memory holds `chunks` means and sums of squares.

    Args:
      gradient: a function of a key.
      key: a PRNG key.
      draws: number of draws R, a multiple of `chunks`.
      chunks: number of chunks, each with the same number of draws and with its own moments.
      block: number of draws that `vmap` makes side by side, a divisor of draws / chunks. 1 is right for networks.
      truth: the true gradient, which gives the direction of the directional figures; they are NaN without it.
      directed_every: number n such that the directional figures use only every n-th draw of a chunk. For a network of a
        million parameters, these figures take a fifth of the time of the gradient.

    Raises:
      ValueError: if draws is not a multiple of chunks, if draws / chunks is below 2 or not a multiple of block, or if
        one of the four numbers is below 1.
    """
    numbers = {"draws": draws, "chunks": chunks, "block": block, "directed_every": directed_every}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if draws % chunks or (draws // chunks) % block or draws < 2 * chunks:
        raise ValueError(
            f"{draws=} must be a multiple of {chunks=}, and draws / chunks at least 2 and a multiple of {block=}"
        )
    size = draws // chunks
    side_by_side = block > 1
    # An update of the moments costs a third of a large network's gradient, so one update adds up to 4 draws.
    number = block if side_by_side else max(n for n in (1, 2, 4) if size % n == 0)
    begin = no_moments(jax.eval_shape(gradient, key))

    def step(running: RunningMoments, first: Array):
        gradients = draw_gradients(gradient, key, first, number, side_by_side)
        return add_gradients(running, gradients, truth, directed_every), None

    def chunk(first: Array) -> RunningMoments:
        return jax.lax.scan(step, begin, first + number * jnp.arange(size // number))[0]

    return join_chunks(jax.lax.map(chunk, size * jnp.arange(chunks)))


def _sum_over_draws(leaf: Float[Array, "number *leaf"]) -> Float[Array, "*leaf"]:
    """The sum over the leading axis. On a CPU, `jnp.sum` over the first axis of a large array is many times slower."""
    if len(leaf) <= UNROLLED:
        return sum(leaf[i] for i in range(len(leaf)))
    return jnp.tensordot(jnp.ones(len(leaf), leaf.dtype), leaf, axes=1)


def _add_directions(
    running: RunningMoments, gradients: PyTree, truth: Truth | None, every: int
) -> dict[str, Float[Array, "2"]]:
    """The means of dsnr and cosine after further draws, of which every n-th counts."""
    figures = _directional_figures(truth, parts(running.mean))
    number = len(jax.tree.leaves(gradients)[0])
    if every == 1:
        new = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(figures)(gradients))
        share = number / (running.count + number)
        return jax.tree.map(lambda old, new: old + (new - old) * share, running.directed, new)
    first = -running.count % every

    def add(i, directed):
        seen = (running.count + i) // every
        new = figures(jax.tree.map(lambda leaf: leaf[i], gradients))
        return jax.tree.map(lambda old, new: old + (new - old) / (seen + 1), directed, new)

    rounds = (number - first + every - 1) // every
    return jax.lax.fori_loop(0, rounds, lambda j, directed: add(first + j * every, directed), running.directed)


def _directional_figures(truth: Truth | None, members: dict[str, list[int]]) -> Callable:
    """Returns `figures(draw) -> {part: [2]}`: |a| / |b| and the cosine of one draw; NaN without a truth.

    `members` has the indices of the leaves of each part.
    """
    if truth is None:
        return lambda draw: {name: jnp.full(2, jnp.nan, jnp.float32) for name in members}
    truth_leaves = jax.tree.leaves(truth.gradient)

    def figures(draw: PyTree) -> dict[str, Float[Array, "2"]]:
        pairs = list(zip(jax.tree.leaves(draw), truth_leaves, strict=True))
        dots = [jnp.sum(g * t) for g, t in pairs]
        squares = [jnp.sum(jnp.square(g)) for g, _ in pairs]
        truths = [jnp.sum(jnp.square(t)) for _, t in pairs]
        by_part = {}
        for name, leaves in members.items():
            dot, square, truth_square = (sum(column[i] for i in leaves) for column in (dots, squares, truths))
            # A draw of zero has no direction.
            cosine = jnp.where(square == 0, 0.0, dot / (jnp.sqrt(truth_square) * jnp.sqrt(square)))
            # A draw that equals the truth up to rounding gets the perpendicular part that rounding would give it.
            sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), ROUNDING))
            finite = sum(truth_leaves[i].size for i in leaves) > 2
            by_part[name] = jnp.stack([jnp.abs(cosine) / sine if finite else jnp.asarray(jnp.nan), cosine])
        return by_part

    return figures


@exact_products
def reference(moments: Moments) -> Truth:
    """Returns the mean of many draws as the truth, with the standard error of that mean.

    Raises:
      ValueError: if there are fewer than three chunks, too few to estimate the error of the truth's length.
    """
    means, structure = jax.tree.flatten(moments.mean)
    chunks = len(means[0])
    if chunks < 3:
        raise ValueError(f"a reference needs moments of 3 chunks or more, and these have {chunks}")
    pools = [pool(*pair, moments.size) for pair in zip(means, jax.tree.leaves(moments.square), strict=True)]
    centres = [centre for centre, _ in pools]
    errors = [jnp.sqrt(variance / (moments.size * chunks)) for _, variance in pools]
    return Truth(jax.tree.unflatten(structure, centres), jax.tree.unflatten(structure, errors), moments.mean)


def pool(
    mean: Float[Array, "C *leaf"], square: Float[Array, "C *leaf"], size: Float[Array, ""]
) -> tuple[Float[Array, "*leaf"], Float[Array, "*leaf"]]:
    """Returns the mean and the unbiased variance of one leaf over the draws of all chunks."""
    ones = jnp.ones(len(mean), mean.dtype)
    over_chunks = lambda leaf: jnp.tensordot(ones, leaf, axes=1)  # on CPU several times as fast as a sum over axis 0
    centre = over_chunks(mean) / len(mean)
    total = over_chunks(square) + size * over_chunks(jnp.square(mean - centre))
    return centre, total / (size * len(mean) - 1)
