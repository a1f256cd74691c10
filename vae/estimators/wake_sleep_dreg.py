"""Reweighted wake-sleep with a doubly reparameterized update of q (Tucker, Lawson, Gu & Maddison 2018,
arXiv:1810.04152, equation 12)."""

import jax
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import pathwise_values, rsample_and_density, scale_cotangent, stateless


def wake_sleep_dreg(num_samples: int = 2) -> Estimator:
    """Estimates the same expectation as `wake_sleep`. The path of sample k to q carries the weight w_k (1 - w_k), and
    the decoder keeps the weight w_k."""

    def estimate(key, q, f, reduce, log_q_weight):
        z, density = rsample_and_density(q, key, num_samples)
        values = stop_gradient(pathwise_values(f, q, log_q_weight, z, density(z)))
        weights = jax.nn.softmax(values, axis=0)  # [K, *batch]
        # Both evaluations of f are at the same z, so XLA computes f once. `reduce` contributes the factor w_k.
        z = scale_cotangent(z, 1 - weights)
        return reduce(pathwise_values(f, q, log_q_weight, z, density(z)))

    return stateless(estimate)
