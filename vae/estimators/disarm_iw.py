"""DisARM-IW (Dong, Mnih & Tucker 2021, arXiv:2106.08056): the antithetic pair of categorical variables.

A category is drawn by breaking a stick: walk through the categories, and stop at each one with its share of what is
left. The partner walks with 1 - u. The weight is half of q(z) q(partner) / P(z, partner), dimension by dimension, times
the difference of the scores. The walk goes from the least probable category up. So no share is above 1/2, the two never
stop together before the last category, every pair of categories occurs, and the ratio stays below 2 without clipping.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae import distributions
from vae.estimators.contract import Estimator
from vae.estimators.parts.coupled_pairs import coupled_pairs


def disarm_iw(num_samples: int = 2) -> Estimator:
    """For two categories this is DisARM; `num_samples` and the importance-weighted bound are as for DisARM."""
    return coupled_pairs(_couple, num_samples)


def _couple(key, q, n: int) -> tuple[Array, Array, Array]:
    logits = stop_gradient(q.logits)
    classes = logits.shape[-1]
    order = jnp.argsort(logits, axis=-1)  # [*batch, D, C]
    log_odds = stick_log_odds(jnp.take_along_axis(logits, order, axis=-1))  # [*batch, D, C-1]
    u = distributions.uniform(key, (n, *log_odds.shape), logits.dtype)
    first, second = (_first_stop(v < jax.nn.sigmoid(log_odds)) for v in (u, 1 - u))  # [n, *batch, D, 1]
    ratio = jnp.take_along_axis(coupling_ratio(log_odds)[None], jnp.minimum(first, second), axis=-1)
    z, partner = (
        jax.nn.one_hot(jnp.take_along_axis(order[None], rank, axis=-1)[..., 0], classes, dtype=logits.dtype)
        for rank in (first, second)
    )
    return z, partner, 0.5 * ratio * (z - partner)


def _first_stop(stops: Array) -> Array:
    """The rank of the first stop `[..., 1]`; a walk that never stops ends at the last category."""
    last = jnp.ones_like(stops[..., :1])
    return jnp.argmax(jnp.concatenate([stops, last], axis=-1), axis=-1, keepdims=True)


def stick_log_odds(ascending: Float[Array, "... C"]) -> Float[Array, "... C_less_1"]:
    """Log-odds of stopping at each category but the last, given no stop before. The logits are in ascending order."""
    rest = jax.lax.cumlogsumexp(ascending, axis=ascending.ndim - 1, reverse=True)
    return ascending[..., :-1] - rest[..., 1:]


def coupling_ratio(log_odds: Float[Array, "... C_less_1"]) -> Float[Array, "... C"]:
    """q(z) q(partner) / P(z, partner) by the lower of the two ranks, for z other than partner.

    With odds o of stopping, a stop of one walk alone contributes 1 / (1 + o), and a stop of neither 1 / (1 - o^2).
    """
    odds = jnp.exp(log_odds)
    neither = jnp.cumsum(-jnp.log1p(-jnp.square(odds[..., :-1])), axis=-1)
    before = jnp.concatenate([jnp.zeros_like(odds[..., :1]), neither], axis=-1)
    last = jnp.ones_like(odds[..., :1])  # where both walks end the weight is 0, and any ratio will do
    return jnp.concatenate([jnp.exp(before - jnp.log1p(odds)), last], axis=-1)
