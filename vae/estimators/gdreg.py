"""Generalized doubly reparameterized gradients (Bauer & Mnih 2021, arXiv:2101.11046): DReG, and the score of a learned
prior is reparameterized too.

Let v_k = log p(x|z_k) + a log p(z_k) - c log q(z_k), and let r_k and r_kk be the first and second derivatives of
`reduce` in v_k. The plain gradient in the parameters lambda of the prior is the score term sum_k a r_k dlog p(z_k).
Let z = T(eps, lambda) be the path of a sample of the prior, such as mean + scale eps. For every function g,

  E_q[g(z) dlog p(z)/dlambda] = E_q[(g d/dz (log q - log p) + dg/dz) dT/dlambda],  where eps = T^-1(z, lambda) is held.

With g = a r_k, the gradient becomes sum_k a (r_k d/dz (log q - log p) + r_kk dv_k/dz) dT/dlambda. With a = c = 1:

  mean:          (dlog q/dz - dlog p/dz) / K, which vanishes where q is the prior
  log_mean_exp:  w_k dlog p(x|z_k)/dz - w_k^2 dv_k/dz
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator, LogJoint, Samples
from vae.estimators.dreg import derivatives, dreg, relative
from vae.estimators.tools import attach, pathwise_values, rsample_and_density, scale_cotangent, stateless


def gdreg(num_samples: int = 1) -> Estimator:
    """DReG in the parameters of q, and its generalization in those of the prior; the decoder keeps the weight r_k.

    f must be a `LogJoint`, whose prior is seen apart. For any other f, GDReG is DReG. It is DReG too if the prior has
    no parameters. The prior needs the method `with_path`.
    """
    plain = dreg(num_samples)

    def estimate(key, q, f, reduce, log_q_weight):
        if not isinstance(f, LogJoint):
            return plain.estimate({}, {}, key, q, f, reduce, log_q_weight).value
        z, density = rsample_and_density(q, key, num_samples)  # [K, *batch, D]
        held = dataclasses.replace(f, prior=stop_gradient(f.prior))
        values = stop_gradient(pathwise_values(held, q, log_q_weight, z, density(z)))  # [K, *batch]
        r, r_kk = derivatives(reduce, values)
        # The same samples, whose derivative is that of a sample of the prior.
        on_prior = f.prior.with_path(z)
        score = f.prior_weight * (density(on_prior) - held.prior.log_prob(on_prior))
        # `reduce` contributes the factor r_k to all three terms.
        z = scale_cotangent(z, relative(r - log_q_weight * r_kk, r))
        z = _with_both_paths(z, scale_cotangent(on_prior, relative(f.prior_weight * r_kk, r)))
        return reduce(pathwise_values(held, q, log_q_weight, z, density(z)) + attach(jnp.zeros_like(score), score))

    return stateless(estimate)


def _with_both_paths(z: Samples, same: Samples) -> Samples:
    """Returns z, with the derivatives of both arguments, which have equal values."""
    return jax.tree.map(lambda one, other: attach(one, one + other), z, same)
