"""DisARM-IW (Dong, Mnih & Tucker 2021, arXiv:2106.08056): the antithetic pair of categorical variables.

A category is drawn by breaking a stick: walk through the categories, stop at each with its share of what is left. The
partner walks with 1 - u, and the weight is half of q(z) q(partner) / P(z, partner), dimension by dimension, times the
difference of the scores. Walking from the least probable category up, no share is above 1/2, so that the two never stop
at once before the last, every pair of categories is met, and the ratio stays below 2: there is nothing to clip.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vae import distributions
from vae.estimators.arm import coupled_pairs
from vae.estimators.base import Estimator


def disarm_iw(num_samples: int = 2) -> Estimator:
    """Of two categories it is DisARM. num_samples is as for DisARM, and so is the importance-weighted bound."""
    return coupled_pairs(_couple, num_samples)


def _couple(key: Array, q, n: int) -> tuple[Array, Array, Array]:
    logits = stop_gradient(q.logits)
    classes = logits.shape[-1]
    order = jnp.argsort(logits, axis=-1)  # [*batch, D, C]
    log_odds = stick_log_odds(jnp.take_along_axis(logits, order, axis=-1))  # [*batch, D, C-1]
    u = distributions.uniform(key, (n, *log_odds.shape), logits.dtype)
    first, second = (_first(v < jax.nn.sigmoid(log_odds)) for v in (u, 1 - u))  # [n, *batch, D, 1]
    ratio = jnp.take_along_axis(coupling_ratio(log_odds)[None], jnp.minimum(first, second), axis=-1)
    z, partner = (
        jax.nn.one_hot(jnp.take_along_axis(order[None], rank, axis=-1)[..., 0], classes, dtype=logits.dtype)
        for rank in (first, second)
    )
    return z, partner, 0.5 * ratio * (z - partner)


def _first(stops: Array) -> Array:
    """The rank of the first stop `[..., 1]`; who never stops, does so at the last."""
    last = jnp.ones_like(stops[..., :1])
    return jnp.argmax(jnp.concatenate([stops, last], axis=-1), axis=-1, keepdims=True)


def stick_log_odds(ascending: Array) -> Array:
    """Log-odds of stopping at each category but the last, not having stopped before: `[..., C]` to `[..., C-1]`."""
    rest = jax.lax.cumlogsumexp(ascending, axis=ascending.ndim - 1, reverse=True)
    return ascending[..., :-1] - rest[..., 1:]


def coupling_ratio(log_odds: Array) -> Array:
    """q(z) q(partner) / P(z, partner) `[..., C]` by the lower of their ranks, for z other than partner.

    With o the odds of stopping, a stop of one alone contributes 1 / (1 + o), and a stop of neither 1 / (1 - o^2).
    """
    odds = jnp.exp(log_odds)
    neither = jnp.cumsum(-jnp.log1p(-jnp.square(odds[..., :-1])), axis=-1)
    before = jnp.concatenate([jnp.zeros_like(odds[..., :1]), neither], axis=-1)
    of_the_last = jnp.ones_like(odds[..., :1])  # where both are: the weight is 0
    return jnp.concatenate([jnp.exp(before - jnp.log1p(odds)), of_the_last], axis=-1)
