"""Doubly reparameterized gradients: the score of q is reparameterized a second time, and leaves only the path.

With f = log p(x, z) - log q(z) and r_k the derivative of `reduce` in f_k, the gradient that plain reparameterization
estimates is sum_k r_k (df_k/dz dz/dphi - score_k). The score term, reparameterized in turn, becomes
-r_kk df_k/dz dz/dphi, r_kk the second derivative. So the path carries the weight r_k - r_kk, and q is frozen:

  mean:          r = 1/K,  r_kk = 0            weight 1/K: sticking the landing
  log_mean_exp:  r = w_k,  r_kk = w_k (1-w_k)  weight w_k^2: DReG; the decoder keeps w_k

Freezing is `stop_gradient(q)`: it stops what q is made of, not what it computes, so a posterior of several stochastic
layers (whose pytree holds its networks' weights) is treated rightly.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimator, scale_cotangent, stateless


def stl(num_samples: int = 1) -> Estimator:
    """Sticking the landing (Roeder, Wu & Duvenaud 2017, arXiv:1703.09194): zero variance where q is the posterior.

    Unbiased for the mean of f = log p - log q alone: an importance-weighted bound needs DReG.
    """

    def estimate(key, q, f, reduce):
        return reduce(f(q.rsample(key, num_samples), stop_gradient(q)))

    return stateless(estimate)


def dreg(num_samples: int = 1) -> Estimator:
    """DReG (Tucker et al. 2018, arXiv:1810.04152), for `log_mean_exp` and by the same formula for the VR-IWAE bounds
    (Daudel et al. 2023, arXiv:2210.06226). With one sample it is sticking the landing."""

    def estimate(key, q, f, reduce):
        z = q.rsample(key, num_samples)  # [K, *batch, D]
        log_weights = stop_gradient(f(z, q))  # [K, *batch]
        # The same z, so XLA computes f once. reduce itself brings r_k; the path gets (r_k - r_kk) / r_k on top.
        z = scale_cotangent(z, _path_weight(reduce, log_weights))
        return reduce(f(z, stop_gradient(q)))

    return stateless(estimate)


def _path_weight(reduce, values):
    """(r_k - r_kk) / r_k, `[K, *batch]`; 0 where r_k itself has underflowed."""
    slope = jax.grad(lambda v: jnp.sum(reduce(v)))
    axes = jnp.eye(values.shape[0], dtype=values.dtype).reshape(len(values), len(values), *[1] * (values.ndim - 1))

    def curvature(axis):
        return jnp.sum(axis * jax.jvp(slope, (values,), (jnp.broadcast_to(axis, values.shape),))[1], axis=0)

    r, r_kk = slope(values), jax.vmap(curvature)(axes)
    return jnp.where(r == 0, 0.0, (r - r_kk) / jnp.where(r == 0, 1.0, r))
