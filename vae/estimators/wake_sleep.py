"""Reweighted wake-sleep (Bornschein & Bengio 2015, arXiv:1406.2751): the decoder maximises the importance-weighted
bound, and the encoder minimises KL(p(z|x) || q(z|x)) with the same importance weights.

The gradient for the encoder is not the gradient of the bound, so the table lists wake-sleep as biased. As an estimate
of the gradient of the KL, it has a bias of order 1/K (Le et al. 2019, arXiv:1805.10469).
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, integrand, stateless


def wake_sleep(num_samples: int = 2) -> Estimator:
    """The wake-phase update of q is sum_k w_k grad log q(z_k|x), where w_k are the normalized importance weights."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, stop_gradient(q), log_q_weight)(z)  # [K, *batch]
        bound = reduce(values)  # [*batch]
        weights = jax.nn.softmax(stop_gradient(values), axis=0)  # [K, *batch]
        return attach(bound, bound + jnp.sum(weights * q.log_prob(z), axis=0))

    return stateless(estimate)
