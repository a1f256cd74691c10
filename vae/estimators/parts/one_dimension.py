"""Functions for estimators that change one latent dimension at a time: other values, f at these values, and scores.

The gradient in the logits of dimension d is the sum over its values y of

  q_d(y) (f(z with z_d = y) - f(z)) (y - mean_d),

where y - mean_d is the score of y. Subtracting f(z) changes nothing, because the scores have mean zero. The term with
y = z_d is then zero, so f needs no further evaluation for that term.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae.distributions import Bernoulli, Categorical
from vae.estimators.contract import Integrand


def other_values(q: Bernoulli | Categorical, z: Array) -> tuple[Array, Array]:
    """Returns the values that differ from z in every dimension `[A, K, *batch, *event]`, and their probabilities
    `[A, K, *batch, D]`. A bit has A = 1 other value, and a class has A = C - 1 other classes."""
    if isinstance(q, Bernoulli):
        others = (1 - z)[None]
        return others, jax.nn.sigmoid((2 * others - 1) * q.logits)
    others = jnp.stack([jnp.roll(z, shift, axis=-1) for shift in range(1, z.shape[-1])])
    return others, jnp.sum(others * q.mean, axis=-1)


def changed_one_by_one(
    f: Integrand, q: Bernoulli | Categorical, z: Array, others: Array
) -> Float[Array, "A K *batch D"]:
    """Evaluates f at z after replacing one dimension at a time by its value in `others` `[A, K, *batch, *event]`."""
    batch_ndim = len(q.batch_shape)
    width = z.shape[1 + batch_ndim]
    event_ndim = z.ndim - 1 - batch_ndim
    one = jnp.eye(width, dtype=bool).reshape(width, *[1] * (1 + batch_ndim), width, *[1] * (event_ndim - 1))
    changed = jnp.where(one, others[:, None], z)  # [A, D, K, *batch, *event]
    values = f(changed.reshape(math.prod(changed.shape[:3]), *z.shape[1:]))
    return jnp.moveaxis(values.reshape(changed.shape[: 3 + batch_ndim]), 1, -1)


def expected_score(q: Bernoulli | Categorical, others: Array, weights: Float[Array, "A K *batch D"]) -> Array:
    """Sums weight times score over the values in `others`, and averages over samples: `[*batch, *event]`."""
    weights = weights.reshape(weights.shape + (1,) * (others.ndim - weights.ndim))
    return jnp.mean(jnp.sum(weights * (others - q.mean), axis=0), axis=0)
