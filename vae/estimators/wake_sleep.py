"""Reweighted wake-sleep (Bornschein & Bengio 2015, arXiv:1406.2751): the decoder climbs the importance-weighted bound,
and the encoder descends KL(p(z|x) || q(z|x)) with the same weights.

As a gradient of the bound it is biased on purpose. As a gradient of its own objective its bias is of order 1/K (Le et
al. 2019, arXiv:1805.10469).
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, integrand, stateless


def wake_sleep(num_samples: int = 2) -> Estimator:
    """The wake-phase update of q: sum_k w_k grad log q(z_k|x), with w the normalized importance weights."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        bound = reduce(integrand(f, stop_gradient(q), log_q_weight)(z))  # [*batch]
        weights = jax.nn.softmax(stop_gradient(integrand(f, q, log_q_weight)(z)), axis=0)  # [K, *batch]
        return attach(bound, bound + jnp.sum(weights * q.log_prob(z), axis=0))

    return stateless(estimate)
