"""What estimators with a learned control variate share: f and its slopes, and the loss that teaches the control."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.distributions import Bernoulli, Categorical
from vae.estimators.contract import Distribution, Estimate, Integrand
from vae.estimators.tools import inject, isolated_loss


def values_and_slopes(f: Integrand, z: Array) -> tuple[Float[Array, "K *batch"], Array]:
    """f `[K, *batch]` and its derivative in z `[K, *batch, *event]`, as constants."""
    values, pull = jax.vjp(f, z)
    return stop_gradient((values, pull(jnp.ones_like(values))[0]))


def score_of_linear(q: Bernoulli | Categorical, slope: Array) -> Array:
    """The derivative in q's logits of E[slope z], `[*batch, *event]`."""
    return jax.grad(lambda q: jnp.sum(q.mean * slope))(q).logits


def least_variance(
    params: PyTree,
    state: PyTree,
    q: Distribution,
    bound: Callable[[Distribution], Array],
    gradient: Callable[[PyTree], Array],
) -> Estimate:
    """The estimate with the value `bound(q)` `[*batch]` and with `gradient(params)` `[*batch, *event]` added to the
    derivative in the logits.

    The params are taught to make the whole gradient short. For an unbiased gradient the mean squared length is the
    variance plus a constant.
    """
    batch_ndim = len(q.batch_shape)
    direct = jax.grad(lambda q: jnp.sum(bound(q)))(q).logits

    def squared_length(params):
        whole = direct + gradient(params)
        return jnp.mean(jnp.sum(jnp.square(whole), axis=tuple(range(batch_ndim, whole.ndim))))

    value = bound(q) + inject(q.logits, gradient(params), batch_ndim)
    return Estimate(value, isolated_loss(squared_length, params), state)
