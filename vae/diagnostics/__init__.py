"""Bias, variance, signal-to-noise ratio and cost of a gradient estimate, against an oracle, with parameters fixed.

    gradient = partial(make_gradient(bound, estimator), params, data, learned, counted, context)   # of a key
    key_draws, key_picks = jax.random.split(key)
    moments = gradient_moments(gradient, key_draws, draws=1000, chunks=20, truth=truth)
    numbers = report(moments, truth)                                # {part: {figure: number}}
    replicates = bootstrap(moments, key_picks)                      # FIGURES, each [replicates]

A gradient is a dict of groups (encoder and decoder, say), each a pytree; a part is a group or a layer of one, see
`parts`. Everything is a pure function to be jitted. The draws are never stored: a scan carries Welford's mean and sum
of squares, one pair for each of `chunks` equal runs of draws, and the chunks are what the bootstrap resamples.

Of a part with coordinates i, a draw g, its mean E g and the true gradient t:

    variance    sum_i Var g_i, the trace of the covariance
    snr         mean_i |E g_i| / sqrt(Var g_i), over the i that vary (Rainforth et al. 2018, arXiv:1802.04537).
                Of R draws |E g_i| has a noise floor: an snr below about sqrt(2 / (pi R)) says nothing.
    dsnr        E |a| / |b|, with g = a + b, a along t and b perpendicular to it: the directional SNR of the same paper
                (eq. 12), which takes the direction of E g for that of t; they are one where g is unbiased. NaN for
                one coordinate, where b = 0, and for two, where the expectation is infinite.
    cosine      E cos(g, t), of a single draw
    scale       E g . t / |t|^2, which is 1 if g is unbiased
    max_abs_z   max_i |mean g_i - t_i| / standard error, over the i that vary in every chunk of draws, or in none: what
                moves in rare draws alone has no normal mean. For the same reason no standard error counts as less than
                a fiftieth of its layer's. The bias along t sees all of them.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params

from vae.estimators.base import Estimator

PyTree = Any

# Sums in float32 carry an error of this part of the whole gradient's norm, whatever the number of draws.
ROUNDING = 1e-6
# Of the standard errors of a layer: what moves less than this part of them is rare, and looks more certain than it is.
FLOOR = 0.02
FIGURES = ("variance", "snr", "dsnr", "cosine")
# Means over chunks are matrix products, which accelerators round to 8 or 11 bits unless told otherwise.
_exact_products = jax.default_matmul_precision("highest")


class Moments(NamedTuple):
    """What is kept of C chunks of n draws each.

    Attributes:
      mean: the gradient's pytree, each leaf `[C, ...]`.
      square: the sums of squared deviations from the chunk's own mean, `[C, ...]`.
      dsnr, cosine: the chunks' means of the directional figures of each part, `[C]`.
      size: n.
    """

    mean: PyTree
    square: PyTree
    dsnr: dict[str, Array]
    cosine: dict[str, Array]
    size: Array


class Truth(NamedTuple):
    """The gradient that draws are held against.

    Attributes:
      gradient: the gradient's pytree.
      stderr: its own standard error, in the same structure; zero for an exact one.
      along: of each part, the standard error of its projection on itself, relative to its norm; zero for an exact one.
    """

    gradient: PyTree
    stderr: PyTree
    along: dict[str, Array]


def exactly(gradient: PyTree) -> Truth:
    """The truth that has no error of its own."""
    gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradient)
    along = {name: jnp.zeros((), jnp.float32) for name in parts(gradient)}
    return Truth(gradient, jax.tree.map(jnp.zeros_like, gradient), along)


def make_gradient(bound: Callable, estimator: Estimator) -> Callable:
    """`gradient(params, data, learned, counted, context, key)`: one estimate of the gradient of the batch's mean bound
    in params, to be ascended.

    `bound(params, data, expect) -> Estimate` is an objective with its model. `learned` and `counted` are the
    estimator's own params and state, which are held fixed; `context` is what its baseline may look at.
    """

    def gradient(params, data, learned, counted, context, key: Array) -> PyTree:
        def expect(q, f, reduce):
            return estimator.estimate(learned, counted, key, q, f, reduce, context)

        return jax.grad(lambda params: jnp.mean(bound(params, data, expect).value))(params)

    return gradient


def parts(gradient: dict[str, PyTree]) -> dict[str, list[int]]:
    """Names of groups and of their layers, each with the indices of its leaves in `jax.tree.leaves`.

    A layer is what shares all of its path but the last name; a group with no layers has its leaves in their place.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(gradient)]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    found: dict[str, list[int]] = {}
    for group in gradient:
        leaves = [i for i, path in enumerate(paths) if name(path[:1]) == group]
        found[group] = leaves
        flat = all(len(paths[i]) <= 2 for i in leaves)
        for i in leaves if len(leaves) > 1 else []:
            found.setdefault(name(paths[i] if flat else paths[i][:-1]), []).append(i)
    return found


# Moments


def gradient_moments(
    gradient: Callable[[Array], PyTree],
    key: Array,
    draws: int,
    chunks: int = 20,
    block: int = 1,
    truth: Truth | None = None,
    directed_every: int = 1,
) -> Moments:
    """Moments of `gradient(fold_in(key, i))` over i < draws, in memory for `chunks` means and sums of squares.

    Args:
      draws: R, a multiple of `chunks`.
      block: draws made side by side by `vmap`, a divisor of draws / chunks. 1 is right for large nets, whose draws are
        made one after the other, some between two updates of the moments: reducing over a vmapped axis costs more.
      truth: gives the direction of the directional figures; they are NaN without it.
      directed_every: the directional figures are of every n-th draw, where block is 1: of a net of a million
        parameters they cost a fifth of its gradient.
    """
    if draws % chunks or (draws // chunks) % block or draws < 2 * chunks:
        raise ValueError(f"{draws=} must be {chunks} chunks of two or more draws, each a multiple of {block=}")
    size = draws // chunks
    # An update of a large net's moments costs a third of its gradient; so it takes up to 4 draws at once.
    in_turn = max(n for n in (1, 2, 4) if size % n == 0 and directed_every % n == 0) if block == 1 else 1
    width = block * in_turn
    shape = jax.eval_shape(gradient, key)
    names = parts(shape)
    direction = None if truth is None else _Direction(truth.gradient, names)

    def draw(i):
        return gradient(jax.random.fold_in(key, i))

    def step(carry, start):
        count, mean, square, ratios = carry
        if block == 1:
            several = [draw(start + i) for i in range(in_turn)]
            centre = jax.tree.map(lambda *g: sum(g) / in_turn, *several)
            spread = jax.tree.map(lambda c, *g: sum(jnp.square(leaf - c) for leaf in g), centre, *several)
            skip = (count % directed_every) != 0
            directed = jax.lax.cond(skip, lambda g: ratios, lambda g: _directed(direction, g), several[0])
        else:
            g = jax.vmap(draw)(start + jnp.arange(block))
            centre = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), g)
            spread = jax.tree.map(lambda leaf, c: jnp.sum(jnp.square(leaf - c), axis=0), g, centre)
            directed = jax.tree.map(lambda r: jnp.mean(r, axis=0), jax.vmap(lambda g: _directed(direction, g))(g))
        # Chan, Golub & LeVeque (1979): two runs of draws become one.
        total = count + width
        delta = jax.tree.map(jnp.subtract, centre, mean)
        mean = jax.tree.map(lambda m, d: m + d * (width / total), mean, delta)
        square = jax.tree.map(lambda s, r, d: s + r + jnp.square(d) * (count * width / total), square, spread, delta)
        if block == 1:  # the mean of those that were looked at
            seen = (count + directed_every) // directed_every
            ratios = jax.tree.map(lambda r, new: r + jnp.where(skip, 0, new - r) / seen, ratios, directed)
        else:
            ratios = jax.tree.map(lambda r, new: r + (new - r) * (width / total), ratios, directed)
        return (total, mean, square, ratios), None

    def chunk(start):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        ratios = jax.eval_shape(lambda g: _directed(direction, g), shape)
        ratios = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ratios)
        begin = (0.0, zeros, zeros, ratios)  # the count has the precision of what it meets
        (_, mean, square, ratios), _ = jax.lax.scan(step, begin, start + width * jnp.arange(size // width))
        return mean, square, ratios

    mean, square, ratios = jax.lax.map(chunk, size * jnp.arange(chunks))
    nothing = jnp.full((chunks, 2), jnp.nan, jnp.float32)
    dsnr, cosine = ({name: ratios.get(name, nothing)[:, i] for name in names} for i in (0, 1))
    return Moments(mean, square, dsnr, cosine, jnp.asarray(size, jnp.float32))


class _Direction(NamedTuple):
    truth: PyTree
    names: dict[str, list[int]]


def _directed(direction: _Direction | None, gradient: PyTree) -> dict[str, Array]:
    """|a| / |b| and the cosine of one draw, `[2]` for each part."""
    if direction is None:
        return {}
    g, t = jax.tree.leaves(gradient), jax.tree.leaves(direction.truth)
    dots = [jnp.sum(x * y) for x, y in zip(g, t, strict=True)]
    lengths = [jnp.sum(jnp.square(x)) for x in g]
    truths = [jnp.sum(jnp.square(y)) for y in t]
    found = {}
    for name, leaves in direction.names.items():
        dot, length, truth = (sum(column[i] for i in leaves) for column in (dots, lengths, truths))
        cosine = jnp.where(length == 0, 0.0, dot / jnp.sqrt(truth * length))  # a zero draw says nothing of the truth
        # A draw that is the truth but for rounding has no perpendicular part; it is given that of the rounding.
        sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), ROUNDING))
        finite = sum(t[i].size for i in leaves) > 2
        found[name] = jnp.stack([jnp.abs(cosine) / sine if finite else jnp.asarray(jnp.nan), cosine])
    return found


@_exact_products
def reference(moments: Moments) -> Truth:
    """The mean of many draws as the truth, with its standard error."""
    chunks = len(jax.tree.leaves(moments.mean)[0])
    structure, along = jax.tree.structure(moments.mean), {}
    means = jax.tree.leaves(moments.mean)
    pools = [_pool(*pair, moments.size) for pair in zip(means, jax.tree.leaves(moments.square), strict=True)]
    centres, errors = [m for m, _ in pools], [jnp.sqrt(v / (moments.size * chunks)) for _, v in pools]
    for name, members in parts(jax.tree.unflatten(structure, centres)).items():
        projections = sum(jnp.tensordot(means[i], centres[i], axes=centres[i].ndim) for i in members)  # [C]
        along[name] = jnp.std(projections, ddof=1) / math.sqrt(chunks) / jnp.mean(projections)
    return Truth(jax.tree.unflatten(structure, centres), jax.tree.unflatten(structure, errors), along)


def _pool(mean: Array, square: Array, size: Array) -> tuple[Array, Array]:
    """Mean and unbiased variance of one leaf over all chunks."""
    ones = jnp.ones(len(mean), mean.dtype)
    over_chunks = lambda leaf: jnp.tensordot(ones, leaf, axes=1)  # several times as fast as a sum over axis 0, on CPU
    centre = over_chunks(mean) / len(mean)
    total = over_chunks(square) + size * over_chunks(jnp.square(mean - centre))
    return centre, total / (size * len(mean) - 1)


# Figures


@_exact_products
def report(moments: Moments, truth: Truth) -> dict[str, dict[str, Array]]:
    """The figures of every part: those of the module's docstring, and

        relative_bias     |mean g - t| / |t|, which is noise up to about relative_stderr
        relative_stderr   |standard errors of mean g| / |t|
        deviation         |mean g - t| / |standard errors|, about 1 by chance, also where t is 0
        truth_stderr      |standard errors of t| / |t|
        scale_stderr      of `scale`, from the spread of the chunks
        norm              |t|
        size              number of coordinates

    Standard errors are of both the draws and the truth. What the truth's own noise adds to |t|^2 is taken off again,
    else every estimator would seem to fall short of a noisy reference.
    """
    chunks = len(jax.tree.leaves(moments.mean)[0])
    flat = [jax.tree.leaves(tree) for tree in (moments.mean, moments.square, truth.gradient, truth.stderr)]
    rounding = ROUNDING * jnp.sqrt(sum(jnp.sum(jnp.square(t)) for t in flat[2]))
    leaves = [_leaf_sums(*leaf, moments.size, rounding) for leaf in zip(*flat, strict=True)]
    found = {}
    for name, members in parts(truth.gradient).items():
        of = {key: sum(leaves[i][key] for i in members) for key in leaves[0] if key != "max_abs_z"}
        square = jnp.maximum(of["truth"] - of["truth_error"], 0)
        norm, scales = jnp.sqrt(square), of["scales"] / square  # [], [C]
        chance, smallest = of["error"] + of["truth_error"], jnp.finfo(norm.dtype).tiny
        # The last is of |t|^2, of which the mean is taken off above.
        errors = jnp.var(scales, ddof=1) / chunks, jnp.square(truth.along[name]), 2 * of["truth_fourth"] / square**2
        found[name] = {
            "max_abs_z": jnp.max(jnp.stack([leaves[i]["max_abs_z"] for i in members])),
            "relative_bias": jnp.sqrt(of["bias"]) / norm,
            "relative_stderr": jnp.sqrt(chance) / norm,
            "deviation": jnp.sqrt(of["bias"] / jnp.maximum(chance, smallest)),
            "truth_stderr": jnp.where(of["truth_error"] > 0, jnp.sqrt(of["truth_error"]) / norm, 0.0),
            "scale": jnp.mean(scales),
            "scale_stderr": jnp.sqrt(sum(errors)),
            "variance": of["variance"],
            "snr": of["snr"] / of["varying"],
            "dsnr": jnp.mean(moments.dsnr[name]),
            "cosine": jnp.mean(moments.cosine[name]),
            "norm": norm,
            "size": of["size"],
        }
    return found


def _leaf_sums(means, squares, truth, truth_stderr, size, rounding) -> dict[str, Array]:
    mean, variance = _pool(means, squares, size)
    bias, error = mean - truth, variance / (size * len(means))
    varies, deviation = _deviation(mean, variance)
    # A coordinate that did not move in some chunk moves in rare draws only (a unit that is seldom active): its mean is
    # not normal, and its variance unknown while none was seen. One that never moves from a value other than 0 is exact.
    still = squares == 0
    judged = ~jnp.any(still, axis=0) | (jnp.all(still, axis=0) & (mean != 0))
    judged |= jnp.all(still) & jnp.all(mean == 0)  # but a whole layer that gets nothing has lost its gradient
    square = error + jnp.square(truth_stderr)
    z = jnp.abs(bias) / jnp.sqrt(square + FLOOR**2 * jnp.mean(square) + jnp.square(rounding))
    return {
        "max_abs_z": jnp.max(jnp.where(judged & (bias != 0), z, 0)),  # 0 / 0 of a truth that is met is no deviation
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


def _deviation(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Which coordinates vary by more than rounding, and their standard deviations; 1 for the others."""
    varies = variance > jnp.square(ROUNDING * mean)
    return varies, jnp.sqrt(jnp.where(varies, variance, 1))


def bootstrap(moments: Moments, key: Array, replicates: int = 4000) -> dict[str, dict[str, Array]]:
    """`FIGURES` of `replicates` resamplings of the chunks, each `[replicates]`.

    With one key and one number of chunks, all estimators are resampled alike: where their draws share keys, ratios of
    their replicates are paired.
    """
    chunks = len(jax.tree.leaves(moments.mean)[0])
    picks = jax.random.randint(key, (replicates, chunks), 0, chunks)
    return resample(moments, jnp.sum(jax.nn.one_hot(picks, chunks, dtype=jnp.float32), axis=1))


@_exact_products
def resample(moments: Moments, weights: Array) -> dict[str, dict[str, Array]]:
    """`FIGURES` when chunk c counts weights_bc times, each `[B]`; every row of `weights` `[B, C]` sums to C.

    The variance is a quadratic form in the chunks' means, so it needs their inner products alone. The snr is
    linearized in the chunks (the infinitesimal jackknife's form): per coordinate it would cost more than the gradients
    themselves, and resampled noise would add to its noise floor.
    """
    chunks = weights.shape[-1]
    leaves = zip(jax.tree.leaves(moments.mean), jax.tree.leaves(moments.square), strict=True)
    leaves = [_leaf_of_chunks(mean, square, moments.size) for mean, square in leaves]
    found = {}
    for name, members in parts(moments.mean).items():
        of = {key: sum(leaves[i][key] for i in members) for key in leaves[0]}
        gram = of["gram"]
        between = weights @ jnp.diag(gram) - jnp.einsum("bc,cd,bd->b", weights, gram, weights) / chunks
        found[name] = {
            "variance": (weights @ of["square"] + moments.size * between) / (moments.size * chunks - 1),
            "snr": (of["snr"] + weights @ of["snr_slope"] / chunks) / of["varying"],
            "dsnr": weights @ moments.dsnr[name] / chunks,
            "cosine": weights @ moments.cosine[name] / chunks,
        }
    return found


def _leaf_of_chunks(means: Array, squares: Array, size: Array) -> dict[str, Array]:
    """What resampling needs of one leaf: sums over its coordinates, `[]`, `[C]` or `[C, C]`."""
    means, squares = means.reshape(len(means), -1), squares.reshape(len(means), -1)
    mean, variance = _pool(means, squares, size)
    varies, deviation = _deviation(mean, variance)
    centred = means - mean  # small against the mean: no cancellation below
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
    """Expanded percentile interval (Hesterberg 2015, arXiv:1411.5279): the bootstrap of few chunks is too narrow by
    sqrt((C - 1) / C) and by the normal quantile in place of Student's."""
    from scipy import stats

    reach = math.sqrt(chunks / (chunks - 1)) * students_t(confidence, chunks)
    tail = stats.norm.cdf(-reach)
    low, high = np.quantile(np.asarray(replicates, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def students_t(confidence: float, chunks: int) -> float:
    """How many standard errors, from the spread of so many chunks, an interval of a mean reaches to either side."""
    from scipy import stats

    return float(stats.t.ppf(0.5 + confidence / 2, chunks - 1))


def critical_z(size: float, level: float = 1e-4) -> float:
    """The |z| that the largest of `size` standard normals exceeds with probability `level` at most (Bonferroni)."""
    return -statistics.NormalDist().inv_cdf(level / (2 * size))


# Cost


def flops(function: Callable, *args) -> float:
    """FLOP of the compiled function as XLA counts them, but that it counts the body of a loop once: here a scan's or a
    map's counts as often as it runs. A `while_loop`, whose number of rounds is data, counts once."""
    return _flops(jax.make_jaxpr(function)(*args))


def _flops(program: ClosedJaxpr) -> float:
    bodies = [(loop.params["length"], loop.params["jaxpr"]) for loop in _loops(program.jaxpr)]
    return _counted(program) + sum(rounds * _flops(body) - _counted(body) for rounds, body in bodies)


def _counted(program: ClosedJaxpr) -> float:
    compiled = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals).compile()
    return max(0.0, float(compiled.cost_analysis()["flops"]))  # XLA gives -1 for a program without any


def _loops(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The outermost scans of a program, which `lax.map` is too, also those inside of what it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        else:
            for called in jaxprs_in_params(equation.params):
                yield from _loops(called)


def evaluations(value: Callable[..., PyTree], key: Array, *args) -> int:
    """At how many z, of one datum, an estimator evaluates f for one gradient.

    `value(watch, key, *args)` runs the estimator on `watch(f)`. It is run three times and looked at: a second call at
    the same z, as DReG's, is removed by XLA and not counted. Discrete samples of one call that coincide by chance are
    counted; a whole call that does is taken for the same, unless one of the three runs tells them apart.
    """
    calls: set[bytes] = set()
    rows: list[int] = []

    def record(z):
        leaves = [np.asarray(leaf) for leaf in z]
        call = b"".join(leaf.tobytes() for leaf in leaves)
        rows.append(0 if call in calls else len(leaves[0]))
        calls.add(call)

    def watch(f):
        def watched(z, q):
            jax.debug.callback(record, jax.tree.leaves(jax.lax.stop_gradient(z)))
            return f(z, q)

        return watched

    run, found = jax.jit(lambda key, *args: value(watch, key, *args)), []
    for key_run in jax.random.split(key, 3):
        calls.clear()
        rows.clear()
        jax.block_until_ready(run(key_run, *args))
        jax.effects_barrier()
        found.append(sum(rows))
    return max(found)


def repeated(gradient: Callable[[Array], PyTree], key: Array, steps: Array, block: int = 1) -> PyTree:
    """The sum of `steps * block` bare gradients, `block` side by side: what the moments' cost is measured against."""

    def step(i, total):
        if block == 1:
            g = gradient(jax.random.fold_in(key, i))
        else:
            g = jax.vmap(lambda j: gradient(jax.random.fold_in(key, j)))(block * i + jnp.arange(block))
            g = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), g)
        return jax.tree.map(jnp.add, total, g)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, key))
    return jax.lax.fori_loop(0, steps, step, zeros)


def interleaved_seconds(programs: Sequence[Callable[[], Any]], rounds: int = 7) -> np.ndarray:
    """Wall-clock of each program in each round, `[programs, rounds]`: one after the other, so that a machine's slow
    minute meets all of them. Each is called once before."""
    for program in programs:
        jax.block_until_ready(program())
    seconds = np.zeros((len(programs), rounds))
    for r in range(rounds):
        order = range(len(programs)) if r % 2 == 0 else reversed(range(len(programs)))
        for i in order:
            started = time.perf_counter()
            jax.block_until_ready(programs[i]())
            seconds[i, r] = time.perf_counter() - started
    return seconds
