"""Exponential arrival times (Vafaii, Galor & Yates 2024, arXiv:2405.14473): a relaxation of Poisson counts.

A count is the number of arrivals before time 1, where the gaps between arrivals are exponential.
"""

import jax
import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.tools import check_positive, integrand, stateless


def eat(num_samples: int = 1, temperature: float = 0.1, arrivals: int = 32) -> Estimator:
    """Evaluates f at relaxed counts, the sum over arrival times t of sigmoid((1 - t) / temperature).

    The gradient is exact for the relaxed value, which is not a bound on log p(x). log q(z) is not a density at a
    relaxed count, so its derivative in q is kept. A lower temperature has less bias and more variance. Counts above
    `arrivals` are cut off: choose a number far above the largest rate.
    """
    check_positive(temperature=temperature, arrivals=arrivals)

    def estimate(key, q, f, reduce, log_q_weight):
        gaps = jax.random.exponential(key, (arrivals, num_samples, *q.log_mean.shape), q.log_mean.dtype)
        times = jnp.cumsum(gaps, axis=0) * jnp.exp(-q.log_mean)
        z = jnp.sum(jax.nn.sigmoid((1 - times) / temperature), axis=0)  # [K, *batch, D]
        return reduce(integrand(f, q, log_q_weight)(z))

    return stateless(estimate)
