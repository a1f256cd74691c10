"""CARMS (Dimitriev & Zhou 2021, arXiv:2110.14002): n samples of classes that are negatively correlated.

In each dimension, a pair of samples (z, z') has the weight q(z) q(z') / P(z, z'), which corrects for the correlation.
The paper draws classes by inverting the cumulative distribution at opposed uniform numbers. Many pairs of different
classes are then impossible, so the estimator would be biased. The samples here walk through the classes as in
DisARM-IW, the least probable class first, and the decisions of the n walks to stop at a class are opposed samples of
ARMS. Every pair of different classes is then possible. With two samples the estimator is DisARM-IW.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.distributions import Bernoulli
from vae.estimators.arms import opposed_samples
from vae.estimators.contract import Estimator, mean
from vae.estimators.disarm_iw import first_stop, stick_log_odds
from vae.estimators.tools import held, inject, integrand, stateless


def carms(num_samples: int = 2) -> Estimator:
    """The sum over all pairs of weight (f(z) - f(z')) (z - z'), divided by n (n - 1), where n is `num_samples`. With
    weights of 1, the estimator would be leave-one-out."""

    def estimate(key, q, f, reduce, log_q_weight):
        logits = stop_gradient(q.logits)
        order = jnp.argsort(logits, axis=-1)  # [*batch, D, C]
        log_odds = stick_log_odds(jnp.take_along_axis(logits, order, axis=-1))  # [*batch, D, C-1]
        stops = opposed_samples(key, Bernoulli(log_odds), num_samples)
        rank = first_stop(stops == 1)  # [n, *batch, D, 1]
        z = jax.nn.one_hot(
            jnp.take_along_axis(order[None], rank, axis=-1)[..., 0], logits.shape[-1], dtype=logits.dtype
        )
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [n, *batch]
        lower = jnp.minimum(rank[:, None], rank)  # [n, n, *batch, D, 1]
        weight = jnp.take_along_axis(pair_weight(log_odds, num_samples)[None, None], lower, axis=-1)
        difference = (values[:, None] - values)[..., None, None]
        signal = jnp.sum(weight * difference, axis=1) / (num_samples - 1)  # [n, *batch, D, 1]
        return reduce(values) + inject(q.logits, mean(signal * z), len(q.batch_shape))

    return stateless(estimate)


def pair_weight(log_odds: Float[Array, "... C_less_1"], n: int) -> Float[Array, "... C"]:
    """q(z) q(z') / P(z, z') for two of n samples of different classes, as a function of the lower of their two ranks.

    With the probability p of stopping, let b be the probability that one walk stops if the other one does. A rank at
    which neither walk stops has the factor (1 - p)^2 / (1 - 2 p + p b). The rank at which the first of the two walks
    stops has the factor (1 - p) / (1 - b). Later ranks have the factor 1.
    """
    p = jax.nn.sigmoid(log_odds)
    b = jnp.maximum(2 - jnp.exp(-jax.nn.log_sigmoid(log_odds) / (n - 1)), 0) ** (n - 1)
    neither = jnp.cumsum(2 * jnp.log1p(-p) - jnp.log1p(p * (b - 2)), axis=-1)[..., :-1]
    before = jnp.concatenate([jnp.zeros_like(p[..., :1]), neither], axis=-1)
    last = jnp.ones_like(p[..., :1])  # here the two classes are equal and z - z' is 0, so the weight does not matter
    return jnp.concatenate([jnp.exp(before) * (1 - p) / (1 - b), last], axis=-1)
