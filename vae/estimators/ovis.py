"""OVIS (Liévin, Dittadi, Christensen & Winther 2020, arXiv:2008.01998): the control of least variance, for large K."""

import math

import jax
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.parts.left_out import values_and_signal
from vae.estimators.parts.score_function import weigh_scores
from vae.estimators.tools import stateless


def ovis(num_samples: int = 2, gamma: float = 1.0) -> Estimator:
    """The asymptotic OVIS estimator of the importance-weighted bound.

    With the mean Z_k of the other K - 1 weights and normalized weights w, the control of sample k is
    log Z_k - gamma w_k + (1 - gamma) log(1 - 1/K). At gamma=0 the estimator is `vimco_star`, which is unbiased. At
    gamma=1 it is VIMCO with the arithmetic mean and without its direct term.

    Args:
      num_samples: K.
      gamma: in [0, 1]. The control depends on its own sample unless gamma is 0, so the bias is proportional to gamma.

    Raises:
      ValueError: if gamma is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values, signal = values_and_signal(q, f, reduce, log_q_weight, z)  # [K, *batch]
        weights = jax.nn.softmax(stop_gradient(values), axis=0)
        return weigh_scores(q, z, reduce(values), signal + gamma * (weights + math.log1p(-1 / num_samples)))

    return stateless(estimate)
