"""Doubly reparameterized gradients (Tucker, Lawson, Gu & Maddison 2018, arXiv:1810.04152): the score term of the
pathwise gradient is reparameterized too, so that only pathwise terms remain.

Let v_k = f(z_k) - c log q(z_k), and let r_k and r_kk be the first and second derivatives of `reduce` in v_k. The plain
pathwise gradient is sum_k r_k (dv_k/dz dz/dphi - c score_k). Reparameterizing the score term turns it into
-c r_kk dv_k/dz dz/dphi. So the path of sample k carries the weight r_k - c r_kk, and the density of q is frozen. With
c = 1:

  mean:          r_k = 1/K,  r_kk = 0              weight 1/K: sticking the landing
  log_mean_exp:  r_k = w_k,  r_kk = w_k (1 - w_k)  weight w_k^2: DReG; the decoder keeps w_k
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.estimators.contract import Estimator, Reduction
from vae.estimators.tools import pathwise_values, rsample_and_density, scale_cotangent, stateless


def dreg(num_samples: int = 1) -> Estimator:
    """DReG for every multi-sample bound: for `log_mean_exp` as in the paper, and for others by the same formula.

    One of the others is the VR-IWAE bound (Daudel et al. 2023, arXiv:2210.06226). With one sample, DReG is sticking the
    landing.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z, density = rsample_and_density(q, key, num_samples)  # [K, *batch, D]
        values = stop_gradient(pathwise_values(f, q, log_q_weight, z, density(z)))  # [K, *batch]
        # Both evaluations of f are at the same z, so XLA computes f once. `reduce` contributes the factor r_k.
        z = scale_cotangent(z, path_weight(reduce, values, log_q_weight))
        return reduce(pathwise_values(f, q, log_q_weight, z, density(z)))

    return stateless(estimate)


def path_weight(
    reduce: Reduction, values: Float[Array, "K *batch"], log_q_weight: float | Array = 1.0
) -> Float[Array, "K *batch"]:
    """Returns (r_k - c r_kk) / r_k, or 0 where r_k has underflowed to 0. See the top of this file."""
    r, r_kk = derivatives(reduce, values)
    return relative(r - log_q_weight * r_kk, r)


def derivatives(
    reduce: Reduction, values: Float[Array, "K *batch"]
) -> tuple[Float[Array, "K *batch"], Float[Array, "K *batch"]]:
    """Returns r_k and r_kk, the first and second derivatives of `reduce` in the value of each sample."""
    slope = jax.grad(lambda v: jnp.sum(reduce(v)))
    axes = jnp.eye(values.shape[0], dtype=values.dtype).reshape(len(values), len(values), *[1] * (values.ndim - 1))

    def curvature(axis):
        return jnp.sum(axis * jax.jvp(slope, (values,), (jnp.broadcast_to(axis, values.shape),))[1], axis=0)

    return slope(values), jax.vmap(curvature)(axes)


def relative(weight: Float[Array, "K *batch"], r: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """Returns weight / r_k, or 0 where r_k has underflowed to 0."""
    return jnp.where(r == 0, 0.0, weight / jnp.where(r == 0, 1.0, r))
