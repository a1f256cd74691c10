"""Doubly reparameterized gradients (Tucker, Lawson, Gu & Maddison 2018, arXiv:1810.04152): the score of q is
reparameterized a second time, and only the path remains.

With v_k = f(z_k) - c log q(z_k) and r_k the derivative of `reduce` in v_k, the gradient that plain reparameterization
estimates is sum_k r_k (dv_k/dz dz/dphi - c score_k). The score term, reparameterized in turn, becomes
-c r_kk dv_k/dz dz/dphi, where r_kk is the second derivative of `reduce` in v_k. So the path carries the weight
r_k - c r_kk, and the density of q is frozen. With c = 1:

  mean:          r_k = 1/K,  r_kk = 0              weight 1/K: sticking the landing
  log_mean_exp:  r_k = w_k,  r_kk = w_k (1 - w_k)  weight w_k^2: DReG; the decoder keeps w_k
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.estimators.contract import Estimator, Reduction
from vae.estimators.tools import integrand, scale_cotangent, stateless


def dreg(num_samples: int = 1) -> Estimator:
    """DReG for `log_mean_exp`, and by the same formula for the VR-IWAE bounds (Daudel et al. 2023, arXiv:2210.06226).
    With one sample this is sticking the landing."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)  # [K, *batch, D]
        values = stop_gradient(integrand(f, q, log_q_weight)(z))  # [K, *batch]
        # Both calls are at the same z, so XLA computes f once. `reduce` itself brings the factor r_k.
        z = scale_cotangent(z, path_weight(reduce, values, log_q_weight))
        return reduce(integrand(f, stop_gradient(q), log_q_weight)(z))

    return stateless(estimate)


def path_weight(
    reduce: Reduction, values: Float[Array, "K *batch"], log_q_weight: float = 1.0
) -> Float[Array, "K *batch"]:
    """(r_k - c r_kk) / r_k, or 0 where r_k itself has underflowed."""
    slope = jax.grad(lambda v: jnp.sum(reduce(v)))
    axes = jnp.eye(values.shape[0], dtype=values.dtype).reshape(len(values), len(values), *[1] * (values.ndim - 1))

    def curvature(axis):
        return jnp.sum(axis * jax.jvp(slope, (values,), (jnp.broadcast_to(axis, values.shape),))[1], axis=0)

    r = slope(values)
    r_kk = jax.vmap(curvature)(axes)
    return jnp.where(r == 0, 0.0, (r - log_q_weight * r_kk) / jnp.where(r == 0, 1.0, r))
