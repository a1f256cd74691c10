"""Reweighted wake-sleep (Bornschein & Bengio 2015, arXiv:1406.2751): the decoder climbs the importance-weighted bound,
the encoder descends KL(p(z|x) || q(z|x)) with the same weights. So it is biased as a gradient of the bound, on purpose,
and of its own objective by O(1/K) (Le et al. 2019, arXiv:1805.10469)."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimator, attach, scale_cotangent, stateless


def wake_sleep(num_samples: int = 2) -> Estimator:
    """The wake-phase update of q: sum_k w_k grad log q(z_k|x), w the normalized importance weights; any latents."""

    def estimate(key, q, f, reduce):
        z = q.sample(key, num_samples)
        bound = reduce(f(z, stop_gradient(q)))  # [*batch]
        weights = jax.nn.softmax(stop_gradient(f(z, q)), axis=0)  # [K, *batch]
        return attach(bound, bound + jnp.sum(weights * q.log_prob(z), axis=0))

    return stateless(estimate)


def wake_sleep_dreg(num_samples: int = 2) -> Estimator:
    """The same expectation for q, doubly reparameterized (Tucker et al. 2018, arXiv:1810.04152, eq. 12): the path with
    weights w_k (1 - w_k). The decoder keeps w_k."""

    def estimate(key, q, f, reduce):
        z = q.rsample(key, num_samples)
        weights = jax.nn.softmax(stop_gradient(f(z, q)), axis=0)
        # The same z, so XLA computes f once; reduce itself brings w_k.
        return reduce(f(scale_cotangent(z, 1 - weights), stop_gradient(q)))

    return stateless(estimate)
