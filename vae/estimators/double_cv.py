"""Double control variates (Titsias & Shi 2022, arXiv:2111.05300): leave-one-out on values with a linear correction.

A term that is linear in z_k is added to each value f_k. The slope of the term is the mean slope of f at the *other*
samples. The expectation of the term is zero, and the gradient that it adds is known and is subtracted again.
"""

import jax.numpy as jnp

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts.control_variates import least_variance, score_of_linear, values_and_slopes
from vae.estimators.parts.score_function import mean_of_others
from vae.estimators.tools import held, integrand


def double_cv(num_samples: int = 2) -> Estimator:
    """Leave-one-out on v_k = f_k + alpha slope_k (z_k - mean) in place of f_k, less the gradient of the added term.

    The scalar alpha is learned. It starts at 0, where the estimator is leave-one-out. At alpha = -1 the gradient of a
    linear f has no variance.
    """

    def init(key, q, context=None):
        del key, context
        return {"alpha": jnp.zeros((), q.logits.dtype)}, {}

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del context
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        f = integrand(f, held(q, reduce), log_q_weight)
        values, slopes = values_and_slopes(f, q, z)
        score = z - q.mean
        event = tuple(range(values.ndim, z.ndim))
        linear = jnp.sum(mean_of_others(slopes) * score, axis=event)  # [K, *batch]
        added = score_of_linear(q, mean(slopes))

        def gradient(params):
            v = values + params["alpha"] * linear
            return mean(jnp.expand_dims(v - mean_of_others(v), event) * score) - params["alpha"] * added

        return least_variance(params, state, q, reduce(f(z)), gradient)

    return Estimator(init, estimate)
