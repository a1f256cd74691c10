"""REINFORCE with a moving average of past values as control (Mnih & Gregor 2014, arXiv:1402.0030)."""

import jax.numpy as jnp

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts import moving_average
from vae.estimators.parts.score_function import score_surrogate
from vae.estimators.tools import check_decay, held, integrand


def reinforce_ema(num_samples: int = 1, decay: float = 0.99) -> Estimator:
    """The average is updated after the estimate, because an average of the current samples would bias the gradient."""
    check_decay(decay)

    def init(key, q, context=None):
        del key, context
        return {}, moving_average.start(q)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del params, context
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        control = jnp.broadcast_to(moving_average.read(state, decay), values.shape)
        value = score_surrogate(q, z, values, control, reduce)
        return Estimate(value, jnp.zeros((), value.dtype), moving_average.update(state, values, decay))

    return Estimator(init, estimate)
