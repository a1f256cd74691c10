"""Exact answers to toy problems, and `assert_unbiased`, the assertion that every estimator must pass."""

import functools
import inspect
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
from vae.estimators import BY_NAME, Entry, Estimator, Reduction
from vae.testing import problems
from vae.testing.problems import FAMILIES as FAMILIES
from vae.testing.problems import LOG_Q_WEIGHT as LOG_Q_WEIGHT
from vae.testing.problems import REDUCE as REDUCE
from vae.testing.problems import Problem as Problem
from vae.testing.problems import problem as problem

PyTree = Any
GROUPS = ("value", "phi", "theta")
MAX_Z = 4.5
MAX_RELATIVE_STDERR = 0.01


class Report(NamedTuple):
    """A comparison of a Monte Carlo gradient with the exact one. The dicts have the keys "value", "phi" and "theta".

    Attributes:
      max_abs_z: the largest deviation of a coordinate, in standard errors.
      relative_stderr: the norm of the standard errors, divided by the norm of the exact answer.
      relative_bias: the norm of the deviation, divided by the norm of the exact answer.
      draws: the number of estimates that were averaged.
    """

    max_abs_z: dict[str, float]
    relative_stderr: dict[str, float]
    relative_bias: dict[str, float]
    draws: int

    def biased(self) -> list[str]:
        return [group for group in GROUPS if not self.max_abs_z[group] < MAX_Z]  # so that NaN counts as biased

    def noisy(self) -> list[str]:
        return [group for group in GROUPS if not self.relative_stderr[group] < MAX_RELATIVE_STDERR]


# The oracle.


@functools.cache
def oracle(family: str, bound: str, num_samples: int, shape: str = "sine") -> dict[str, np.ndarray]:
    """Returns the value `[B]` and the flat gradients of the exact expectation, computed in float64."""
    return differentiate_exactly(problem(family, shape), REDUCE[bound], num_samples)


def differentiate_exactly(
    problem: Problem, reduce: Reduction, num_samples: int, order: int | None = None, by: str | None = None
) -> dict[str, np.ndarray]:
    """Uses the estimator `exact` if it fits, and otherwise quadrature at `quantile_nodes`, which needs no pathwise
    derivatives. `by` can name one of "exact" and "quadrature". The result has the keys "value", "phi" and "theta"."""
    family = type(problem.posterior(problem.phi))
    tuple_size = 1 if reduce.additive else num_samples
    by = by or ("exact" if fits(BY_NAME["exact"], family, "mean") else "quadrature")
    with jax.enable_x64(True):
        problem = problem.astype(jnp.float64)
        if by == "exact":
            expectation = problems.exact_expectation(problem, reduce, num_samples, order)
        else:
            z, log_weight = quantile_nodes(problem.posterior(problem.phi), order or 22)
            expectation = lambda q, f: _sum_over_tuples(q, f, reduce, tuple_size, z, log_weight)
        objective = functools.partial(problems.objective, problem, expectation)
        run = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
        (_, value), grads = run(problem.phi, problem.theta)
        return _flat(value, *grads)


def _flat(value, phi, theta) -> dict[str, np.ndarray]:
    ravel = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return {"value": ravel(value), "phi": ravel(phi), "theta": ravel(theta)}


def _sum_over_tuples(q, f, reduce: Reduction, tuple_size: int, z: Array, log_weight: Array) -> Array:
    """E[reduce(f(z_1), ..., f(z_K))] as a sum over fixed nodes: only the weights of the nodes depend on q."""
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
    """Returns nodes `[N, B, D]` and log-weights `[N, 1]` of a product quadrature rule for q.

    The rule is Gauss-Legendre quadrature of a standard normal, on each side of the median, because the Laplace density
    has a kink at its median. The quantile function of each coordinate maps the normal nodes to nodes of q.
    """
    if isinstance(q, distributions.MixtureOfNormals):
        return _nodes_of_each_component(q, order // 2)
    if isinstance(q, distributions.PowerSpherical | distributions.VonMisesFisher):
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
        z = jnp.broadcast_to(np.stack([np.cos(angle), np.sin(angle)], axis=-1), (64, *q.location.shape))
        return z, q.log_prob(z) + np.log(2 * np.pi / 64)
    points, weights = np.polynomial.legendre.leggauss(order)
    reach = 5.2  # a standard normal is larger in absolute value with probability 2e-7
    normal = np.concatenate([(points - 1), (points + 1)]) * reach / 2
    log_weight = np.log(np.tile(weights, 2) * reach / 2) + stats.norm.logpdf(normal)
    grid = np.stack(np.meshgrid(normal, normal, indexing="ij"), -1).reshape(-1, 1, 2)  # [N, 1, 2]
    log_weights = np.add.outer(log_weight, log_weight).reshape(-1, 1)
    return jnp.asarray(_quantiles(q, grid)), jnp.asarray(log_weights)


def _nodes_of_each_component(q: distributions.MixtureOfNormals, order: int):
    parts = [
        quantile_nodes(distributions.Normal(q.means[:, c], q.log_vars[:, c]), order) for c in range(q.means.shape[1])
    ]
    weights = jax.nn.log_softmax(q.logits)
    log_weights = [log_weight + weights[:, c] for c, (_, log_weight) in enumerate(parts)]
    return jnp.concatenate([z for z, _ in parts]), jnp.concatenate(log_weights)


def _quantiles(q, normal: np.ndarray) -> np.ndarray:
    """Maps standard normal coordinates `[N, 1, 2]` to values of z `[N, B, D]` with the same quantiles under q."""
    u, p = special.ndtr(normal), {name: np.asarray(value) for name, value in vars(q).items()}
    match type(q).__name__:
        case "Normal":
            return p["mean"] + np.exp(p["log_var"] / 2) * normal
        case "MultivariateNormal":
            return p["mean"] + np.einsum(
                "bij,nbj->nbi", p["cholesky"], np.broadcast_to(normal, (len(u), *p["mean"].shape))
            )
        case "LowRankNormal":
            covariance = np.exp(p["log_var"])[..., None] * np.eye(2) + p["factor"] @ np.swapaxes(p["factor"], -1, -2)
            full = distributions.MultivariateNormal(p["mean"], np.linalg.cholesky(covariance))
            return _quantiles(full, normal)
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
    """Returns whether the entry can estimate the gradient of this bound."""
    return entry.refusal(q, REDUCE[bound], LOG_Q_WEIGHT) is None


# The assertion.


def make_estimator(name: str, bound: str) -> tuple[Estimator, int]:
    """Returns the estimator with the fewest samples (at least two for log_mean_exp), and the number of samples.

    A network has eight hidden units: the tests need its formula, and would spend most of their time in a larger one.
    """
    factory = BY_NAME[name].make
    num_samples = max(2 if bound == "log_mean_exp" else 1, BY_NAME[name].min_samples)
    small = {"hidden": 8} if "hidden" in inspect.signature(factory).parameters else {}
    return factory(num_samples=num_samples, **small), num_samples


def trained(estimator: Estimator, problem: Problem, reduce: Reduction, calls: int = 3):
    """Returns params and a state as they are during training.

    The params differ from their initial values, and the state has seen `calls` earlier estimates.
    """
    q, context = problem.posterior(problem.phi), problem.theta["x"]
    shapes = jax.eval_shape(estimator.init, jax.random.key(0), q, context)
    if not jax.tree.leaves(shapes):
        return shapes  # nothing learned and nothing counted

    @jax.jit
    def run(key):
        key_params, key_calls = jax.random.split(key)
        key_init, key_noise = jax.random.split(key_params)
        params, state = estimator.init(key_init, q, context)
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key_noise, len(leaves) + 1)[1:]
        params = treedef.unflatten([_moved(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])
        if not jax.tree.leaves(state):
            return params, state
        f = problem.integrand(problem.theta)
        step = lambda state, key: (
            estimator.estimate(params, state, key, q, f, reduce, LOG_Q_WEIGHT, context).state,
            None,
        )
        return params, jax.lax.scan(step, state, jax.random.split(key_calls, calls))[0]

    return run(jax.random.key(11))


def _moved(key, leaf):
    """Moves a scalar param by 0.5, which reveals a mistake in the term that the param multiplies.

    The weights of a network get noise with standard deviation 0.1.
    """
    if leaf.ndim == 0:
        return leaf + 0.5 * jax.random.rademacher(key, (), leaf.dtype)
    return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)


def gradient_program(
    estimator: Estimator, problem: Problem, reduce: Reduction, params: PyTree, state: PyTree
) -> Callable:
    """Returns a function (phi, theta, key) -> ((sum of values, values), (d phi, d theta))."""

    def run(phi, theta, key):
        expectation = lambda q, f: estimator.estimate(params, state, key, q, f, reduce, LOG_Q_WEIGHT, theta["x"]).value
        objective = functools.partial(problems.objective, problem, expectation)
        return jax.value_and_grad(objective, (0, 1), has_aux=True)(phi, theta)

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
    """Asserts that value, d phi and d theta agree with `exact` within 4.5 standard errors, which are at most 1 %.

    Chunks of `chunk` draws are added until the standard errors are small enough, or until there are `max_chunks`.

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
        # The sum of squares within the chunks and between them (Chan, Golub & LeVeque 1979).
        square = sum(s[group] for s in squares) + chunk * np.square(means - average).sum(0)
        stderr = np.sqrt(square / draws / max(1, draws - 1))
        norm = np.linalg.norm(truth)
        rounding = 1e-5 * norm  # the error of float32 sums; far below the standard error, except where that is 0
        worst[group] = float(np.max(np.abs(average - truth) / np.hypot(stderr, rounding)))
        stderrs[group] = float(np.linalg.norm(stderr) / norm)
        biases[group] = float(np.linalg.norm(average - truth) / norm)
    return Report(worst, stderrs, biases, draws)
