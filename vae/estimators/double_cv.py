"""Double control variates (Titsias & Shi 2022, arXiv:2111.05300): leave-one-out whose values have lost their slope.

Each f_k takes along a term that is linear in z_k, with the slope of f at the *other* samples: known mean, known score.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vae.estimators.base import Estimate, Estimator, PyTree, hold_density, inject, isolated_loss, mean
from vae.estimators.score_function import others


def double_cv(num_samples: int = 2) -> Estimator:
    """v_k = f_k + alpha slope_k (z_k - mean) in place of f_k, and the score of what was added is taken back. The scalar
    alpha is learned: at 0, where it starts, this is leave-one-out; at -1 a linear f leaves no variance."""

    def init(key, q, context=None):
        del key, context
        return {"alpha": jnp.zeros((), q.logits.dtype)}, {}

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        del context
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        values, slopes = values_and_slopes(f, q, z)
        score = z - q.mean
        event = tuple(range(values.ndim, z.ndim))
        linear = jnp.sum(others(slopes) * score, axis=event)  # [K, *batch]
        added = score_of_linear(q, mean(slopes))

        def gradient(params):
            v = values + params["alpha"] * linear
            return mean(jnp.expand_dims(v - others(v), event) * score) - params["alpha"] * added

        return least_variance(params, state, q, lambda q: reduce(hold_density(f, reduce)(z, q)), gradient)

    return Estimator(init, estimate)


def score_of_linear(q, slope: Array) -> Array:
    """The derivative in q's logits of E[slope z], `[*batch, *event]`."""
    return jax.grad(lambda q: jnp.sum(q.mean * slope))(q).logits


def values_and_slopes(f: Callable, q, z: Array) -> tuple[Array, Array]:
    """f `[K, *batch]` and its derivative in z alone `[K, *batch, *event]`, as constants."""
    frozen = stop_gradient(q)
    values, pull = jax.vjp(lambda z: f(z, frozen), z)
    return stop_gradient((values, pull(jnp.ones_like(values))[0]))


def least_variance(params: PyTree, state: PyTree, q, bound: Callable, gradient: Callable) -> Estimate:
    """The estimate of value `bound(q)`, `[*batch]`, with `gradient(params)`, `[*batch, *event]`, added for the logits.

    The params are taught to make the whole gradient short: where it is unbiased, its squared length is its variance and
    a constant.
    """
    batch_ndim = len(q.batch_shape)
    direct = jax.grad(lambda q: jnp.sum(bound(q)))(q).logits

    def squared_length(params):
        whole = direct + gradient(params)
        return jnp.mean(jnp.sum(jnp.square(whole), axis=tuple(range(batch_ndim, whole.ndim))))

    value = bound(q) + inject(q.logits, gradient(params), batch_ndim)
    return Estimate(value, isolated_loss(squared_length, params), state)
