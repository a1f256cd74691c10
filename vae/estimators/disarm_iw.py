"""DisARM-IW (Dong, Mnih & Tucker 2021, arXiv:2106.08056): antithetic pairs of categorical variables.

A category is drawn by stick breaking: a walk visits the categories in turn, and stops at each one with the probability
of that category divided by the probability of all categories that are left. The sample walks with the uniform numbers
u, and its partner walks with 1 - u. In each dimension, the weight is q(z) q(partner) / (2 P(z, partner)) times the
difference of the scores of z and the partner.

The walk visits the least probable category first. The probability of stopping is therefore at most 1/2 before the last
category. So the two walks never stop together before the last category, every pair of different categories can occur,
and q(z) q(partner) / P(z, partner) stays below 2 without clipping.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae import distributions
from vae.estimators.contract import Estimator
from vae.estimators.parts.coupled_pairs import coupled_pairs


def disarm_iw(num_samples: int = 2) -> Estimator:
    """With two categories, the estimator is DisARM. `num_samples` has the same meaning as for DisARM."""
    return coupled_pairs(_couple, num_samples)


def _couple(key, q, n: int) -> tuple[Array, Array, Array]:
    logits = stop_gradient(q.logits)
    classes = logits.shape[-1]
    order = jnp.argsort(logits, axis=-1)  # [*batch, D, C]
    log_odds = stick_log_odds(jnp.take_along_axis(logits, order, axis=-1))  # [*batch, D, C-1]
    u = distributions.uniform(key, (n, *log_odds.shape), logits.dtype)
    first, second = (first_stop(v < jax.nn.sigmoid(log_odds)) for v in (u, 1 - u))  # [n, *batch, D, 1]
    ratio = jnp.take_along_axis(coupling_ratio(log_odds)[None], jnp.minimum(first, second), axis=-1)
    z, partner = (
        jax.nn.one_hot(jnp.take_along_axis(order[None], rank, axis=-1)[..., 0], classes, dtype=logits.dtype)
        for rank in (first, second)
    )
    return z, partner, 0.5 * ratio * (z - partner)


def first_stop(stops: Array) -> Array:
    """The rank `[..., 1]` of the first True in `stops` `[..., C - 1]`; a walk without a stop ends at rank C - 1."""
    last = jnp.ones_like(stops[..., :1])
    return jnp.argmax(jnp.concatenate([stops, last], axis=-1), axis=-1, keepdims=True)


def stick_log_odds(ascending: Float[Array, "... C"]) -> Float[Array, "... C_less_1"]:
    """Log-odds of stopping at each category except the last, given no earlier stop, for logits in ascending order."""
    rest = jax.lax.cumlogsumexp(ascending, axis=ascending.ndim - 1, reverse=True)
    return ascending[..., :-1] - rest[..., 1:]


def coupling_ratio(log_odds: Float[Array, "... C_less_1"]) -> Float[Array, "... C"]:
    """q(z) q(partner) / P(z, partner) for z different from the partner, as a function of the lower of their two ranks.

    The ratio is a product over the ranks of the walk. With odds o of stopping, a rank at which neither walk stops has
    the factor 1 / (1 - o^2). The rank at which the first of the two walks stops has the factor 1 / (1 + o). Later ranks
    have the factor 1.
    """
    odds = jnp.exp(log_odds)
    neither = jnp.cumsum(-jnp.log1p(-jnp.square(odds[..., :-1])), axis=-1)
    before = jnp.concatenate([jnp.zeros_like(odds[..., :1]), neither], axis=-1)
    last = jnp.ones_like(odds[..., :1])  # here z is the partner and the weight is 0, so the ratio does not matter
    return jnp.concatenate([jnp.exp(before - jnp.log1p(odds)), last], axis=-1)
