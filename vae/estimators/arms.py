"""ARMS (Dimitriev & Zhou 2021, arXiv:2105.14141): not pairs but n samples that oppose each other all at once."""

import jax
import jax.numpy as jnp
from jax import Array

from vae.estimators.base import Estimator, hold_density, inject, mean, stateless


def arms(num_samples: int = 2) -> Estimator:
    """The sample covariance of f and z, times a ratio that makes up for the opposition. With independent
    samples and a ratio of 1 it would be leave-one-out; for two, the ratio is sigmoid(|logits|) and it is DisARM."""

    def estimate(key, q, f, reduce):
        z = opposed_samples(key, q, num_samples)  # [n, *batch, D]
        values = hold_density(f, reduce)(z, q)  # [n, *batch]
        covariance = jnp.sum((values - mean(values))[..., None] * z, axis=0) / (num_samples - 1)
        return reduce(values) + inject(q.logits, covariance_ratio(q, num_samples) * covariance, len(q.batch_shape))

    return stateless(estimate)


def opposed_samples(key: Array, q, n: int) -> Array:
    """n samples of q `[n, *batch, D]` from the Dirichlet copula: with d ~ Dirichlet(1, ..., 1), each (1 - d_k)^(n-1) is
    uniform, and where one is small the others are not. The rarer value of each bit is given to small ones."""
    d = jax.nn.softmax(-jax.random.gumbel(key, (n, *q.logits.shape), q.logits.dtype), axis=0)
    u = jnp.maximum(1 - d, jnp.finfo(d.dtype).eps / 2) ** (n - 1)  # 1 - d may round to 0
    rarer = u < jax.nn.sigmoid(-jnp.abs(q.logits))
    return jnp.where(q.logits < 0, rarer, ~rarer).astype(q.logits.dtype)


def covariance_ratio(q, n: int) -> Array:
    """p (1 - p) / (p - P(two samples are both 1)), `[*batch, D]`: q's variance over the sample variance of these."""
    log_rarer = jax.nn.log_sigmoid(-jnp.abs(q.logits))
    both = jnp.maximum(2 - jnp.exp(-log_rarer / (n - 1)), 0) ** (n - 1)  # P(another has the rarer value | one has)
    return jax.nn.sigmoid(jnp.abs(q.logits)) / (1 - both)
