"""ARMS (Dimitriev & Zhou 2021, arXiv:2105.14141): n samples that are negatively correlated with each other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions import Bernoulli
from vae.estimators.contract import Estimator, mean
from vae.estimators.tools import held, inject, integrand, stateless


def arms(num_samples: int = 2) -> Estimator:
    """The gradient is the sample covariance of f and z, times a ratio that corrects for the correlation of the samples.

    With independent samples and a ratio of 1, the estimator would be leave-one-out. With two samples the ratio is
    sigmoid(|logits|), and the estimator is DisARM.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z = opposed_samples(key, q, num_samples)  # [n, *batch, D]
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [n, *batch]
        covariance = jnp.sum((values - mean(values))[..., None] * z, axis=0) / (num_samples - 1)
        return reduce(values) + inject(q.logits, covariance_ratio(q, num_samples) * covariance, len(q.batch_shape))

    return stateless(estimate)


def opposed_samples(key: PRNGKeyArray, q: Bernoulli, n: int) -> Float[Array, "n *batch D"]:
    """Draws n samples of q from the Dirichlet copula.

    With d ~ Dirichlet(1, ..., 1), each u_k = (1 - d_k)^(n-1) is uniform, and no two u_k are small at once. A bit takes
    its less probable value where u_k is small, so two samples rarely share that value.
    """
    d = jax.nn.softmax(-jax.random.gumbel(key, (n, *q.logits.shape), q.logits.dtype), axis=0)
    u = jnp.maximum(1 - d, jnp.finfo(d.dtype).eps / 2) ** (n - 1)  # 1 - d may round to 0
    rarer = u < jax.nn.sigmoid(-jnp.abs(q.logits))
    return jnp.where(q.logits < 0, rarer, ~rarer).astype(q.logits.dtype)


def covariance_ratio(q: Bernoulli, n: int) -> Float[Array, "*batch D"]:
    """p (1 - p) / (p - P(two samples are both 1)): the variance of a bit, divided by the expectation of the sample
    variance of opposed samples."""
    log_rarer = jax.nn.log_sigmoid(-jnp.abs(q.logits))
    both = jnp.maximum(2 - jnp.exp(-log_rarer / (n - 1)), 0) ** (n - 1)  # P(z_j is rare | z_k is rare)
    return jax.nn.sigmoid(jnp.abs(q.logits)) / (1 - both)
