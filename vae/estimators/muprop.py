"""MuProp (Gu, Levine, Sutskever & Mnih 2015, arXiv:1511.05176): the control variate is the first-order expansion of f
at the mean of q. The score function multiplies only the remainder, and the gradient of the expansion is known."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, held, inject, integrand, stateless


def muprop(num_samples: int = 1) -> Estimator:
    """MuProp uses E[f] = E[f - expansion] + f(mean), for every family with a mean.

    f must accept z = mean, which is not a possible sample of discrete latents.
    """

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
