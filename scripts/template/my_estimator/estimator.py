"""The score function with f at the mean of q as control variate, which costs one more evaluation of f.

This is a placeholder. Replace it by your estimator, and say here which paper and equation it follows.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient
from vae.estimators import Estimator, held, integrand, stateless
from vae.estimators.parts.score_function import score_surrogate


def my_estimator(num_samples: int = 1) -> Estimator:
    """The estimator is unbiased, because the control does not depend on the samples.

    A keyword argument with a default is an option. With the argument `scale: float = 1.0`, for example,
    `--estimator=my_estimator:scale=0.5` would work.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        g = integrand(f, held(q, reduce), log_q_weight)  # g(z) = f(z) - c log q(z)
        z = q.sample(key, num_samples)  # [K, *batch, D]
        values = g(z)  # [K, *batch]
        control = jnp.broadcast_to(g(stop_gradient(q.mean)[None]), values.shape)
        return score_surrogate(q, z, values, control, reduce)

    return stateless(estimate)
