"""The coefficients of the scores when the bound of the other samples, still divided by K, is the control of a sample.

For the importance-weighted bound, with normalized weights w, the coefficient of the score of z_k is -log(1 - w_k), from
the signal, minus c w_k, from the density in the log-weight. At c = 1 the sum is about w_k^2 / 2, of order 1/K^2, and a
difference of two numbers of order 1/K would lose it in float32. So the difference has a series of its own.
"""

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import logsumexp
from jaxtyping import Array, Float

from vae.estimators.contract import Distribution, Integrand, Reduction, Samples
from vae.estimators.parts.score_function import learning_signal
from vae.estimators.tools import integrand

TERMS = 16  # the series is exact to rounding in float64; for float32, 7 terms are enough


def values_and_signal(
    q: Distribution, f: Integrand, reduce: Reduction, log_q_weight: float | Array, z: Samples
) -> tuple[Float[Array, "K *batch"], Float[Array, "K *batch"]]:
    """Returns f(z) - c log q(z), and the signal by which `weigh_scores` multiplies the scores.

    The values of an importance-weighted bound have no derivative in q, because the signal contains that term.
    """
    if not reduce.importance_weighted:
        values = integrand(f, q, log_q_weight)(z)
        return values, learning_signal(values, jnp.full_like(values, -jnp.inf), reduce)
    values = integrand(f, stop_gradient(q), log_q_weight)(z)
    held = stop_gradient(values)
    return values, excess(held) + (1 - log_q_weight) * jax.nn.softmax(held, axis=0)


def excess(log_weights: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """Returns -log(1 - w) - w for the normalized weights w, with a relative error of rounding.

    If all other weights are zero, the log of the mean weight takes the place of -log(1 - w).
    """
    w = jax.nn.softmax(log_weights, axis=0)
    # With t = w / (2 - w), -log(1 - w) = 2 atanh(t), and 2 t - w = w t. No term is negative, and t <= 1/3 if w <= 1/2.
    t = w / (2 - w)
    small = w * t + 2 * t**3 * jnp.polyval(1 / jnp.arange(2 * TERMS + 1, 1, -2, dtype=w.dtype), t**2)
    # Only the largest weight may be above 1/2. With the ratio r of all others to it, -log(1 - w) = log(1 + r) - log r.
    top = jnp.max(log_weights, axis=0)
    is_top = jnp.argmax(log_weights, axis=0) == jnp.arange(len(w)).reshape(-1, *[1] * (w.ndim - 1))
    log_r = logsumexp(jnp.where(is_top, -jnp.inf, log_weights - top), axis=0)
    signal = jnp.where(log_r == -jnp.inf, top - math.log(len(w)), jnp.logaddexp(log_r, 0.0) - log_r)
    return jnp.where(w > 0.5, signal - w, small)
