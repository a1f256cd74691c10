"""The exact value and gradient, with the interface of an estimator: a differentiable sum over states or nodes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from vae import distributions
from vae.estimators.contract import Estimator, Integrand
from vae.estimators.tools import check_positive, integrand, stateless

MAX_EVALUATIONS = 2**22
CHUNK = 1024


def exact(num_samples: int = 1, order: int = 24) -> Estimator:
    """Enumerates all states (Bernoulli, Categorical, Poisson), or uses Gauss-Hermite quadrature (Normal,
    MultivariateNormal).

    The quadrature has `order` nodes for each dimension, and the sum over Poisson counts has the counts below `order`.
    If these lack more than 1e-4 of the probability of a datum, its value and gradient are NaN; with numbers that are
    not traced, `estimate` raises. Less may still matter for an f that grows fast, and importance weights can vary fast
    between nodes: double `order` to check the answer. For a bound of K = `num_samples` samples, the sum runs over all
    K-tuples of states or nodes, so K and D must be small. `estimate` ignores its key.

    Raises:
      ValueError: from `estimate`, if there are more than 2^22 states, nodes or tuples, or if the counts below `order`
        lack a part of the probability.
    """
    check_positive(order=order)

    def estimate(key, q, f, reduce, log_q_weight):
        del key
        z, log_weight = nodes(q, order)  # [N, *batch, D], [N, *batch]
        values = _evaluate(integrand(f, q, log_q_weight), z, q)  # [N, *batch]
        tuple_size = 1 if reduce.additive else num_samples
        _refuse_if_large(len(values), tuple_size)
        tuples = np.indices((len(values),) * tuple_size).reshape(tuple_size, -1)  # [K, N^K]
        weight = jnp.exp(jnp.sum(log_weight[tuples], axis=0))
        return jnp.sum(weight * reduce(values[tuples]), axis=0)

    return stateless(estimate)


def _evaluate(f: Integrand, z, q) -> jax.Array:
    """f at all nodes `[N, *batch]`, at most CHUNK at a time. The backward pass recomputes f, to save memory."""
    size = max(n for n in range(1, min(CHUNK, len(z)) + 1) if len(z) % n == 0)
    if size == len(z):
        return f(z)
    chunks = z.reshape(-1, size, *z.shape[1:])
    return jax.lax.map(jax.checkpoint(lambda chunk: f(chunk)), chunks).reshape(len(z), *q.batch_shape)


def nodes(q, order: int = 24):
    """Returns all states of q or quadrature nodes `[N, *batch, *event]`, and the logs of the weights `[N, *batch]`."""
    if isinstance(q, distributions.Bernoulli):
        width = q.logits.shape[-1]
        _refuse_if_large(2, width)
        states = np.indices((2,) * width).reshape(width, -1).T.astype(q.logits.dtype)
    elif isinstance(q, distributions.Categorical):
        width, classes = q.logits.shape[-2:]
        _refuse_if_large(classes, width)
        states = np.eye(classes, dtype=q.logits.dtype)[np.indices((classes,) * width).reshape(width, -1).T]
    elif isinstance(q, distributions.Poisson):
        width = q.log_mean.shape[-1]
        _refuse_if_large(order, width)
        states = np.indices((order,) * width).reshape(width, -1).T.astype(q.log_mean.dtype)
    else:
        return _gauss_hermite(q, order)
    z = jnp.broadcast_to(_over_batch(states, q.batch_shape), (len(states), *q.mean.shape))
    log_weight = q.log_prob(z)
    return z, _complete(log_weight, order) if isinstance(q, distributions.Poisson) else log_weight


def _complete(log_weight: jax.Array, order: int) -> jax.Array:
    """The logs of the weights, which are NaN for a datum whose weights do not sum to 1."""
    lacking = jnp.sum(jnp.exp(stop_gradient(log_weight)), axis=0) < 1 - 1e-4
    if not isinstance(lacking, jax.core.Tracer) and jnp.any(lacking):
        raise ValueError(
            f"the counts below {order} lack more than 1e-4 of the probability of a Poisson with so large a mean; "
            "choose a larger order"
        )
    return log_weight + jnp.where(lacking, jnp.nan, 0.0).astype(log_weight.dtype)  # a sum, so the gradient is NaN too


def _gauss_hermite(q, order: int):
    width = q.mean.shape[-1]
    _refuse_if_large(order, width)
    points, weights = np.polynomial.hermite_e.hermegauss(order)
    grid = np.indices((order,) * width).reshape(width, -1).T  # [N, D]
    log_weight = np.log(weights / math.sqrt(2 * math.pi))[grid].sum(-1)  # [N]
    eps = jnp.broadcast_to(_over_batch(points[grid], q.batch_shape), (len(grid), *q.mean.shape))
    log_weight = jnp.broadcast_to(_over_batch(log_weight, q.batch_shape), (len(grid), *q.batch_shape))
    return q.from_noise(eps.astype(q.mean.dtype)), log_weight.astype(q.mean.dtype)


def _over_batch(table: np.ndarray, batch_shape) -> jax.Array:
    return jnp.asarray(table.reshape(len(table), *[1] * len(batch_shape), *table.shape[1:]))


def _refuse_if_large(states: int, exponent: int) -> None:
    if states**exponent > MAX_EVALUATIONS:
        raise ValueError(
            f"the exact expectation would sum {states}^{exponent} terms, more than 2^22; "
            f"use fewer latent dimensions, fewer samples, or a Monte Carlo estimator"
        )
