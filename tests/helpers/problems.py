"""Toy problems with exact answers, and the one assertion by which every estimator is judged: `assert_unbiased`.

A problem is f(z, q) = log p_theta(x, z) - log q(z) on two data and two latent dimensions with unlike parameters. It is
small enough for its value and gradients to be summed or integrated in float64, and depends on q both through z and
directly, so that a lost direct term shows.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient
from scipy import special, stats

from vae import distributions
from vae.estimators import BY_NAME, Entry, Estimator, Reduction, log_mean_exp, mean
from vae.estimators.exact import MAX_EVALUATIONS

PyTree = Any
REDUCE = {"mean": mean, "log_mean_exp": log_mean_exp}
LOG_Q_WEIGHT = 1.0
GROUPS = ("value", "phi", "theta")
MAX_Z = 4.5
MAX_RELATIVE_STDERR = 0.01


class Problem(NamedTuple):
    """An expectation to differentiate.

    Attributes:
      phi: what q is made of; every leaf leads with the batch.
      theta: what f closes over: weight, bias, and the data x `[*batch, 2]`.
      posterior: phi -> q.
      log_joint: theta, z -> log p_theta(x, z) `[K, *batch]`.
    """

    phi: PyTree
    theta: dict[str, Any]
    posterior: Callable[[PyTree], Any]
    log_joint: Callable[[PyTree, Array], Array]

    def integrand(self, theta: PyTree) -> Callable[[Array], Array]:
        return lambda z: self.log_joint(theta, z)

    def log_weight(self, theta: PyTree, z: Array, q) -> Array:
        return self.log_joint(theta, z) - q.log_prob(z)

    def astype(self, dtype) -> "Problem":
        cast = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
        return self._replace(phi=cast(self.phi), theta=cast(self.theta))

    def with_batch(self, *shape: int) -> "Problem":
        """The first data, as many as the shape holds, laid out in a batch of this shape."""
        lay = lambda leaf: leaf[: math.prod(shape)].reshape(*shape, *leaf.shape[1:])
        return self._replace(phi=jax.tree.map(lay, self.phi), theta=self.theta | {"x": lay(self.theta["x"])})


class Report(NamedTuple):
    """How a Monte Carlo gradient compares with the exact one; each a dict over "value", "phi" and "theta".

    Attributes:
      max_abs_z: the largest deviation of a coordinate, in standard errors.
      relative_stderr: norm of the standard errors / norm of the exact answer.
      relative_bias: norm of the deviation / norm of the exact answer.
      draws: how many estimates were averaged.
    """

    max_abs_z: dict[str, float]
    relative_stderr: dict[str, float]
    relative_bias: dict[str, float]
    draws: int

    def biased(self) -> list[str]:
        return [group for group in GROUPS if not self.max_abs_z[group] < MAX_Z]  # NaN is no agreement

    def noisy(self) -> list[str]:
        return [group for group in GROUPS if not self.relative_stderr[group] < MAX_RELATIVE_STDERR]


_CONTINUOUS = {"mean": [[0.7, -0.9], [-0.4, 1.2]]}
_POSTERIORS = {
    "Normal": dict(_CONTINUOUS, log_var=[[-0.5, 0.3], [0.2, -0.8]]),
    "MultivariateNormal": dict(_CONTINUOUS, cholesky=[[[0.8, 0.0], [0.5, 1.1]], [[1.2, 0.0], [-0.4, 0.7]]]),
    "Laplace": dict(_CONTINUOUS, log_scale=[[-0.5, 0.1], [-0.2, -0.7]]),
    "StudentT": dict(_CONTINUOUS, log_scale=[[-0.4, 0.1], [0.0, -0.6]], log_df=[[1.8, 2.2], [2.0, 1.6]]),
    "Gamma": dict(log_concentration=[[0.7, 1.2], [1.0, 0.5]], log_rate=[[0.4, 0.9], [0.2, 0.8]]),
    "Beta": dict(log_alpha=[[0.7, 1.2], [1.0, 0.5]], log_beta=[[1.1, 0.4], [0.6, 0.9]]),
    "Dirichlet": dict(log_concentration=[[0.7, 1.2, 0.3], [1.0, 0.5, 0.8]]),
    "Bernoulli": dict(logits=[[0.6, -1.1], [-0.3, 0.9]]),
    "Categorical": dict(logits=[[[0.5, -0.7, 0.1], [-0.9, 0.4, 0.8]], [[0.2, 0.6, -1.0], [1.1, -0.3, 0.0]]]),
}
FAMILIES = {name: getattr(distributions, name) for name in _POSTERIORS}


def problem(family: str, shape: str = "sine") -> Problem:
    """The problem with latents of `family`; log p is a squared error through a sine (entire: quadrature is fast), or a
    cubic in z."""
    phi = FAMILIES[family](**{name: np.asarray(value, np.float32) for name, value in _POSTERIORS[family].items()})
    first, posterior = jax.tree.leaves(phi)[0], lambda phi: phi
    if family == "MultivariateNormal":  # What stands above the diagonal is no parameter: log_prob does not see it.
        posterior = lambda phi: distributions.MultivariateNormal(phi.mean, jnp.tril(phi.cholesky))
    width = first[0].size
    theta = {
        "weight": np.float32([[0.7, -0.2], [0.4, 0.6], [-0.5, 0.3]] * 2)[:width],
        "bias": np.float32([0.3, -0.2]),
        "x": np.float32([[1.1, -0.4], [-0.8, 1.0]]),
    }
    return Problem(phi, theta, posterior, {"sine": _sine_log_joint, "cubic": _cubic_log_joint}[shape])


def _sine_log_joint(theta: PyTree, z: Array) -> Array:
    return -jnp.sum(jnp.square(theta["x"] - 1.5 * jnp.sin(_affine(theta, z))), axis=-1)


def _cubic_log_joint(theta: PyTree, z: Array) -> Array:
    h = _affine(theta, z)
    return jnp.sum(theta["x"] * h - 0.3 * h**3, axis=-1)


def _affine(theta: PyTree, z: Array) -> Array:
    flat = z.reshape(z.shape[0], *theta["x"].shape[:-1], -1)  # [K, *batch, D]
    return flat @ theta["weight"] + theta["bias"]


# The oracle.


@functools.cache
def oracle(family: str, bound: str, num_samples: int, shape: str = "sine") -> dict[str, np.ndarray]:
    """Value `[B]` and gradients, flat, of the exact expectation, in float64; never through a pathwise derivative where
    `exact` does not reach."""
    return differentiate_exactly(problem(family, shape), REDUCE[bound], num_samples)


def differentiate_exactly(
    problem: Problem, reduce: Reduction, num_samples: int, order: int | None = None, by: str | None = None
) -> dict[str, np.ndarray]:
    """By the table's `exact` where it fits and by `quantile_quadrature` elsewhere, unless `by` names one of the two."""
    family = type(problem.posterior(problem.phi))
    tuple_size = 1 if reduce.additive else num_samples
    by = by or ("exact" if fits(BY_NAME["exact"], family, "mean") else "quadrature")
    with jax.enable_x64(True):
        problem = problem.astype(jnp.float64)
        if by == "exact":
            width = jax.tree.leaves(problem.phi)[0].shape[-1]
            order = order or min(24, int(MAX_EVALUATIONS ** (1 / (width * tuple_size))))
            estimator = BY_NAME["exact"].make(num_samples=num_samples, order=order)
            expectation = lambda q, f: estimator.estimate({}, {}, None, q, f, reduce, LOG_Q_WEIGHT).value
        else:
            z, log_weight = quantile_nodes(problem.posterior(problem.phi), order or 22)
            expectation = lambda q, f: _sum_over_tuples(q, f, reduce, tuple_size, z, log_weight)
        run = jax.jit(jax.value_and_grad(functools.partial(_objective, problem, expectation), (0, 1), has_aux=True))
        (_, value), grads = run(problem.phi, problem.theta)
        return _flat(value, *grads)


def _objective(problem: Problem, expectation: Callable, phi: PyTree, theta: PyTree):
    value = expectation(problem.posterior(phi), problem.integrand(theta))
    return jnp.sum(value), value


def _flat(value, phi, theta) -> dict[str, np.ndarray]:
    ravel = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return {"value": ravel(value), "phi": ravel(phi), "theta": ravel(theta)}


def _sum_over_tuples(q, f, reduce: Reduction, tuple_size: int, z: Array, log_weight: Array) -> Array:
    """E[reduce(f(z_1), ..., f(z_K))] over fixed nodes whose weights, not places, follow q."""
    log_prob = q.log_prob(z)
    weight = jnp.exp(log_weight + log_prob - stop_gradient(log_prob))  # [N, B]
    spread = lambda array, axis: jnp.expand_dims(array, [a for a in range(tuple_size) if a != axis])
    shape = (len(z),) * tuple_size + q.batch_shape
    values = jnp.stack(
        [jnp.broadcast_to(spread(f(z) - LOG_Q_WEIGHT * log_prob, axis), shape) for axis in range(tuple_size)]
    )
    weights = math.prod(spread(weight, axis) for axis in range(tuple_size))
    return jnp.sum(weights * reduce(values), axis=tuple(range(tuple_size)))


def quantile_nodes(q, order: int):
    """Nodes `[N, B, D]` and log-weights `[N, 1]` of a tensor rule for q: Gauss-Legendre in normal scores on either side
    of the median (the Laplace density has a kink there), taken through the quantile function of each coordinate."""
    points, weights = np.polynomial.legendre.leggauss(order)
    reach = 5.2  # beyond which a standard normal has 2e-7
    normal = np.concatenate([(points - 1), (points + 1)]) * reach / 2
    log_weight = np.log(np.tile(weights, 2) * reach / 2) + stats.norm.logpdf(normal)
    grid = np.stack(np.meshgrid(normal, normal, indexing="ij"), -1).reshape(-1, 1, 2)  # [N, 1, 2]
    log_weights = np.add.outer(log_weight, log_weight).reshape(-1, 1)
    return jnp.asarray(_quantiles(q, grid)), jnp.asarray(log_weights)


def _quantiles(q, normal: np.ndarray) -> np.ndarray:
    """`[N, 1, 2]` standard normal coordinates to `[N, B, D]` draws of q."""
    u, p = special.ndtr(normal), {name: np.asarray(value) for name, value in vars(q).items()}
    match type(q).__name__:
        case "Normal":
            return p["mean"] + np.exp(p["log_var"] / 2) * normal
        case "MultivariateNormal":
            return p["mean"] + np.einsum(
                "bij,nbj->nbi", p["cholesky"], np.broadcast_to(normal, (len(u), *p["mean"].shape))
            )
        case "Laplace":
            return stats.laplace.ppf(u, p["mean"], np.exp(p["log_scale"]))
        case "StudentT":
            return stats.t.ppf(u, np.exp(p["log_df"]), p["mean"], np.exp(p["log_scale"]))
        case "Gamma":
            return stats.gamma.ppf(u, np.exp(p["log_concentration"]), scale=np.exp(-p["log_rate"]))
        case "Beta":
            return stats.beta.ppf(u, np.exp(p["log_alpha"]), np.exp(p["log_beta"]))
        case "Dirichlet":  # stick-breaking: two Betas make three parts
            a = np.exp(p["log_concentration"])
            first = stats.beta.ppf(u[..., 0], a[:, 0], a[:, 1] + a[:, 2])
            second = (1 - first) * stats.beta.ppf(u[..., 1], a[:, 1], a[:, 2])
            return np.stack([first, second, 1 - first - second], axis=-1)


def fits(entry: Entry, q: Any, bound: str) -> bool:
    """Whether the entry can estimate the gradient of this bound of log-weights."""
    return entry.refusal(q, REDUCE[bound], LOG_Q_WEIGHT) is None


# The assertion.


def make_estimator(name: str, bound: str) -> tuple[Estimator, int]:
    """The entry with the fewest samples that make its bound what it is: for the importance-weighted one, two."""
    num_samples = max(2 if bound == "log_mean_exp" else 1, BY_NAME[name].min_samples)
    return BY_NAME[name].make(num_samples=num_samples), num_samples


def trained(estimator: Estimator, problem: Problem, reduce: Reduction, calls: int = 3):
    """Params away from their initial values and a state that has seen other draws: what training hands an estimator."""
    key_params, key_calls = jax.random.split(jax.random.key(11))
    q, context = problem.posterior(problem.phi), problem.theta["x"]
    shapes = jax.eval_shape(estimator.init, key_params, q, context)
    if not jax.tree.leaves(shapes):
        return shapes  # nothing learned and nothing counted

    @jax.jit
    def init(key):
        key_init, key_noise = jax.random.split(key)
        params, state = estimator.init(key_init, q, context)
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key_noise, len(leaves) + 1)[1:]
        return treedef.unflatten([_moved(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]), state

    params, state = init(key_params)
    step = jax.jit(
        lambda state, key: estimator.estimate(
            params, state, key, q, problem.integrand(problem.theta), reduce, LOG_Q_WEIGHT, context
        )
    )
    if jax.tree.leaves(state):
        for key in jax.random.split(key_calls, calls):
            state = step(state, key).state
    return params, state


def _moved(key, leaf):
    """A multiplier by a half, so that a mistake in what it multiplies shows; a network's weights by a tenth."""
    if leaf.ndim == 0:
        return leaf + 0.5 * jax.random.rademacher(key, (), leaf.dtype)
    return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)


def gradient_program(
    estimator: Estimator, problem: Problem, reduce: Reduction, params: PyTree, state: PyTree
) -> Callable:
    """(phi, theta, key) -> ((sum of values, values), (d phi, d theta))."""

    def run(phi, theta, key):
        expectation = lambda q, f: estimator.estimate(params, state, key, q, f, reduce, LOG_Q_WEIGHT, theta["x"]).value
        return jax.value_and_grad(functools.partial(_objective, problem, expectation), (0, 1), has_aux=True)(phi, theta)

    return run


def assert_unbiased(
    estimator: Estimator,
    problem: Problem,
    reduce: Reduction,
    exact: dict[str, np.ndarray],
    *,
    groups: tuple[str, ...] = GROUPS,
    seed: int = 0,
    chunk: int = 2**14,
    max_chunks: int = 256,
) -> Report:
    """Asserts that value, d phi and d theta agree with `exact` within 4.5 standard errors, all of these below 1 %.

    Draws chunk after chunk until the standard errors are small enough.

    Raises:
      AssertionError: "too noisy" or "biased", with the report.
    """
    report = measure(estimator, problem, reduce, exact, seed=seed, chunk=chunk, max_chunks=max_chunks)
    assert not set(report.noisy()) & set(groups), f"too noisy to judge: {report}"
    assert not set(report.biased()) & set(groups), f"biased: {report}"
    return report


def measure(
    estimator: Estimator, problem: Problem, reduce: Reduction, exact, *, seed=0, chunk=2**14, max_chunks=256
) -> Report:
    params, state = trained(estimator, problem, reduce)
    run = gradient_program(estimator, problem, reduce, params, state)

    @jax.jit
    def moments(key):
        (_, value), (phi, theta) = jax.vmap(functools.partial(run, problem.phi, problem.theta))(
            jax.random.split(key, chunk)
        )
        draws = {"value": [value], "phi": jax.tree.leaves(phi), "theta": jax.tree.leaves(theta)}
        draws = {g: jnp.concatenate([leaf.reshape(chunk, -1) for leaf in leaves], -1) for g, leaves in draws.items()}
        centre = jax.tree.map(lambda x: jnp.mean(x, axis=0), draws)
        return centre, jax.tree.map(lambda x, c: jnp.sum(jnp.square(x - c), axis=0), draws, centre)

    centres, squares = [], []
    for i in range(max_chunks):
        centre, square = jax.tree.map(np.float64, moments(jax.random.fold_in(jax.random.key(seed), i)))
        centres.append(centre)
        squares.append(square)
        report = _report(centres, squares, chunk, exact)
        if not any(stderr >= 0.95 * MAX_RELATIVE_STDERR for stderr in report.relative_stderr.values()):
            break
    return report


def _report(centres: list, squares: list, chunk: int, exact: dict[str, np.ndarray]) -> Report:
    draws = chunk * len(centres)
    worst, stderrs, biases = {}, {}, {}
    for group, truth in exact.items():
        means = np.stack([c[group] for c in centres])
        average = means.mean(0)
        # Chan's formula: within the chunks and between them.
        square = sum(s[group] for s in squares) + chunk * np.square(means - average).sum(0)
        stderr = np.sqrt(square / draws / max(1, draws - 1))
        norm = np.linalg.norm(truth)
        rounding = 1e-5 * norm  # of float32 sums; far below the standard error wherever there is one
        worst[group] = float(np.max(np.abs(average - truth) / np.hypot(stderr, rounding)))
        stderrs[group] = float(np.linalg.norm(stderr) / norm)
        biases[group] = float(np.linalg.norm(average - truth) / norm)
    return Report(worst, stderrs, biases, draws)
