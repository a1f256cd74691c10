"""The doubly reparameterized wake-phase update (Tucker et al. 2018, arXiv:1810.04152, equation 12)."""

import jax
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import integrand, scale_cotangent, stateless


def wake_sleep_dreg(num_samples: int = 2) -> Estimator:
    """The same expectation for q as `wake_sleep`: the path carries the weights w_k (1 - w_k). The decoder keeps w_k."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        weights = jax.nn.softmax(stop_gradient(integrand(f, q, log_q_weight)(z)), axis=0)  # [K, *batch]
        # Both calls are at the same z, so XLA computes f once. `reduce` itself brings w_k.
        z = scale_cotangent(z, 1 - weights)
        return reduce(integrand(f, stop_gradient(q), log_q_weight)(z))

    return stateless(estimate)
