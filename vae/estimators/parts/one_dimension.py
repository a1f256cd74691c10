"""One latent dimension at a time: its other values, f at each of them, and the scores.

The gradient of dimension d is the sum over its values y of q_d(y) (f(z with z_d = y) - f(z)) (y - mean_d). There
y - mean_d is the score of y. f(z) may be subtracted because the scores sum to zero, so z_d itself costs no second
evaluation.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae.distributions import Bernoulli, Categorical
from vae.estimators.contract import Integrand


def other_values(q: Bernoulli | Categorical, z: Array) -> tuple[Array, Array]:
    """The values that each dimension could have in place of its z, `[A, K, *batch, *event]`, and their probabilities,
    `[A, K, *batch, D]`: the A = 1 other value of a bit, or the A = C - 1 other classes."""
    if isinstance(q, Bernoulli):
        others = (1 - z)[None]
        return others, jax.nn.sigmoid((2 * others - 1) * q.logits)
    others = jnp.stack([jnp.roll(z, shift, axis=-1) for shift in range(1, z.shape[-1])])
    return others, jnp.sum(others * q.mean, axis=-1)


def changed_one_by_one(
    f: Integrand, q: Bernoulli | Categorical, z: Array, others: Array
) -> Float[Array, "A K *batch D"]:
    """f of z with one dimension at a time taken from `others` `[A, K, *batch, *event]`."""
    batch_ndim = len(q.batch_shape)
    width = z.shape[1 + batch_ndim]
    event_ndim = z.ndim - 1 - batch_ndim
    one = jnp.eye(width, dtype=bool).reshape(width, *[1] * (1 + batch_ndim), width, *[1] * (event_ndim - 1))
    changed = jnp.where(one, others[:, None], z)  # [A, D, K, *batch, *event]
    values = f(changed.reshape(-1, *z.shape[1:]))
    return jnp.moveaxis(values.reshape(changed.shape[: 3 + batch_ndim]), 1, -1)


def expected_score(q: Bernoulli | Categorical, others: Array, weights: Float[Array, "A K *batch D"]) -> Array:
    """The mean over samples of the sum over others of weight times score, `[*batch, *event]`."""
    weights = weights.reshape(weights.shape + (1,) * (others.ndim - weights.ndim))
    return jnp.mean(jnp.sum(weights * (others - q.mean), axis=0), axis=0)
