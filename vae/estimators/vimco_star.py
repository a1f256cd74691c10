"""VIMCO-star (Daudel et al. 2026, arXiv:2602.01412): VIMCO whose signal-to-noise ratio grows with the samples."""

import jax
import jax.numpy as jnp
import numpy as np

from vae.estimators.contract import Estimator, Reduction
from vae.estimators.parts.left_out import values_and_signal
from vae.estimators.parts.score_function import weigh_scores
from vae.estimators.tools import stateless


def vimco_star(num_samples: int = 2) -> Estimator:
    """The score function, where the bound without a sample is that of the sum of the other weights, still over K.

    With normalized weights w, the gradient in the parameters of q is sum_k (-log(1 - w_k) - w_k) times the score of
    z_k. A sample of small weight has the coefficient w_k^2 / 2, where VIMCO has one of order 1/K. So the
    signal-to-noise ratio grows with the root of K, where that of VIMCO falls with it.

    For the importance-weighted bound, the coefficients are right to rounding at every K. For other bounds, they are
    small differences of bounds, whose rounding errors grow with K: in float32, the gradient may be wrong by 4 % at
    K = 1000 and by 12 % at K = 2000.

    Raises:
      ValueError: for a bound that is not finite when one of its values is -inf, such as the thermodynamic objective.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        _require_finite_bound_without_a_sample(reduce)
        z = q.sample(key, num_samples)
        values, signal = values_and_signal(q, f, reduce, log_q_weight, z)  # [K, *batch]
        return weigh_scores(q, z, reduce(values), signal)

    return stateless(estimate)


def _require_finite_bound_without_a_sample(reduce: Reduction) -> None:
    with jax.ensure_compile_time_eval():
        bound = reduce(jnp.asarray([0.0, -jnp.inf]))
    if not np.isfinite(bound):
        raise ValueError(
            f"vimco_star leaves out one sample at a time, and the bound {reduce.name} is not defined without one; "
            f"choose vimco"
        )
