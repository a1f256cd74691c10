"""MuProp (Gu, Levine, Sutskever & Mnih 2015, arXiv:1511.05176): the score function weighs only what is left of f after
its first-order expansion at the mean of q, whose own gradient is known."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, held, inject, integrand, stateless


def muprop(num_samples: int = 1) -> Estimator:
    """E[f] = E[f - expansion] + f(mean), for every family that has a mean. f must accept a z between the samples."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        values = integrand(f, held(q, reduce), log_q_weight)(z)
        batch_ndim = len(q.batch_shape)
        centre = stop_gradient(q.mean)[None]
        at_mean, pullback = jax.vjp(integrand(f, stop_gradient(q), log_q_weight), centre)
        slope = pullback(jnp.ones_like(at_mean))[0]  # [1, *batch, *event]
        event = tuple(range(1 + batch_ndim, z.ndim))
        remainder = stop_gradient(values - at_mean - jnp.sum(slope * (z - centre), axis=event))  # [K, *batch]
        bound = reduce(values)
        score = jnp.mean(remainder * q.log_prob(z), axis=0)
        return attach(bound, bound + score + inject(q.mean, slope[0], batch_ndim))

    return stateless(estimate)
