"""Small expectations with exact gradients.

A problem is the expectation of log p_theta(x, z) - log q(z), with two data points and two latent dimensions that all
have different parameters. The problem is small enough to sum or integrate its value and gradients in float64. It
depends on q through z and through log q(z), so an estimator that loses the derivative of log q(z) fails.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae import distributions
from vae.distributions.base import event_shape
from vae.estimators import Reduction, log_mean_exp, make, mean
from vae.estimators.exact import MAX_EVALUATIONS

PyTree = Any
REDUCE = {"mean": mean, "log_mean_exp": log_mean_exp}
LOG_Q_WEIGHT = 1.0


class Problem(NamedTuple):
    """An expectation to differentiate.

    Attributes:
      phi: the parameters of q; the first axes of every leaf are the batch.
      theta: the arrays that f closes over: weight, bias, and the data x `[*batch, 2]`.
      posterior: a function phi -> q.
      log_joint: a function (theta, z) -> log p_theta(x, z) `[K, *batch]`.
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
        """Returns the problem with a batch of this shape, filled with its data in turn."""
        lay = lambda leaf: np.resize(leaf, (*shape, *leaf.shape[1:]))
        return self._replace(phi=jax.tree.map(lay, self.phi), theta=self.theta | {"x": lay(self.theta["x"])})


_CONTINUOUS = {"mean": [[0.7, -0.9], [-0.4, 1.2]]}
_POSTERIORS = {
    "Normal": dict(_CONTINUOUS, log_var=[[-0.5, 0.3], [0.2, -0.8]]),
    "MultivariateNormal": dict(_CONTINUOUS, cholesky=[[[0.8, 0.0], [0.5, 1.1]], [[1.2, 0.0], [-0.4, 0.7]]]),
    "LowRankNormal": dict(_CONTINUOUS, log_var=[[-0.9, 0.1], [-0.2, -0.8]], factor=[[[0.5], [-0.6]], [[0.7], [0.4]]]),
    "MixtureOfNormals": dict(
        means=[[[0.9, -0.6], [-0.8, 0.5]], [[-0.7, 1.1], [0.6, -0.2]]],
        log_vars=[[[-0.5, 0.1], [-0.2, -0.6]], [[0.2, -0.4], [-0.7, 0.1]]],
        logits=[[0.4, -0.3], [-0.2, 0.5]],
    ),
    "Laplace": dict(_CONTINUOUS, log_scale=[[-0.5, 0.1], [-0.2, -0.7]]),
    "StudentT": dict(_CONTINUOUS, log_scale=[[-0.4, 0.1], [0.0, -0.6]], log_df=[[1.8, 2.2], [2.0, 1.6]]),
    "Gamma": dict(log_concentration=[[0.7, 1.2], [1.0, 0.5]], log_rate=[[0.4, 0.9], [0.2, 0.8]]),
    "Beta": dict(log_alpha=[[0.7, 1.2], [1.0, 0.5]], log_beta=[[1.1, 0.4], [0.6, 0.9]]),
    "Dirichlet": dict(log_concentration=[[0.7, 1.2, 0.3], [1.0, 0.5, 0.8]]),
    "PowerSpherical": dict(location=[[0.7, -0.9], [-0.4, 1.2]], log_concentration=[[0.6], [1.1]]),
    "VonMisesFisher": dict(location=[[0.7, -0.9], [-0.4, 1.2]], log_concentration=[[0.6], [1.1]]),
    "Poisson": dict(log_mean=[[0.1, -0.6], [-0.3, 0.4]]),
    "Bernoulli": dict(logits=[[0.6, -1.1], [-0.3, 0.9]]),
    "Categorical": dict(logits=[[[0.5, -0.7, 0.1], [-0.9, 0.4, 0.8]], [[0.2, 0.6, -1.0], [1.1, -0.3, 0.0]]]),
}
FAMILIES = {name: getattr(distributions, name) for name in _POSTERIORS}
_ENCODING = np.float32([[[0.7, -0.9]], [[-0.4, 1.2]]])
_CODEBOOK = np.float32([[1.1, -0.4], [0.2, 0.9], [-0.8, -0.3]])


def problem(family: str, shape: str = "sine") -> Problem:
    """Returns the problem with latents of `family`. log p is a squared error of a sine of z ("sine"), for which
    quadrature converges fast, or a cubic in z ("cubic").

    `family` may also be "Quantized", with the encodings as the parameters of q. Their exact gradient is zero.
    """
    posterior = lambda phi: phi
    if family == "Quantized":
        phi = distributions.Quantized(_ENCODING, codebook=None)
        posterior = lambda phi: distributions.Quantized(phi.encoding, _CODEBOOK)
    else:
        phi = FAMILIES[family](**{name: np.asarray(value, np.float32) for name, value in _POSTERIORS[family].items()})
    if family == "MultivariateNormal":  # entries above the diagonal are not parameters
        posterior = lambda phi: distributions.MultivariateNormal(phi.mean, jnp.tril(phi.cholesky))
    width = math.prod(event_shape(phi))
    theta = {
        "weight": np.float32([[0.7, -0.2], [0.4, 0.6], [-0.5, 0.3]] * 2)[:width],
        "bias": np.float32([0.3, -0.2]),
        "x": np.float32([[1.1, -0.4], [-0.8, 1.0]]),
    }
    return Problem(phi, theta, posterior, {"sine": _sine_log_joint, "cubic": _cubic_log_joint}[shape])


def _sine_log_joint(theta: PyTree, z: Array | np.ndarray) -> Array:
    return -jnp.sum(jnp.square(theta["x"] - 1.5 * jnp.sin(_affine(theta, z))), axis=-1)


def _cubic_log_joint(theta: PyTree, z: Array | np.ndarray) -> Array:
    h = _affine(theta, z)
    return jnp.sum(theta["x"] * h - 0.3 * h**3, axis=-1)


def _affine(theta: PyTree, z: Array | np.ndarray) -> Array | np.ndarray:
    flat = z.reshape(*z.shape[: theta["x"].ndim], len(theta["weight"]))  # [K, *batch, D]
    return flat @ theta["weight"] + theta["bias"]


def objective(problem: Problem, expectation: Callable, phi: PyTree, theta: PyTree):
    """The sum over the data of `expectation(q, f)`, and the expectations themselves."""
    value = expectation(problem.posterior(phi), problem.integrand(theta))
    return jnp.sum(value), value


def exact_expectation(problem: Problem, reduce: Reduction, num_samples: int, order: int | None = None) -> Callable:
    """Returns `expectation(q, f)`: the exact value `[*batch]` for bits, classes and Gaussians.

    `order` is the number of nodes of a quadrature in each dimension; by default `largest_order`.
    """
    order = order or largest_order(problem, reduce, num_samples)
    estimator = make("exact", num_samples=num_samples, order=order)
    return lambda q, f: estimator.estimate({}, {}, None, q, f, reduce, LOG_Q_WEIGHT).value


def largest_order(problem: Problem, reduce: Reduction, num_samples: int) -> int:
    """The number of nodes in each dimension that a quadrature may have, up to 24."""
    width = jax.tree.leaves(problem.phi)[0].shape[-1]
    tuple_size = 1 if reduce.additive else num_samples
    return min(24, int(MAX_EVALUATIONS ** (1 / (width * tuple_size))))
