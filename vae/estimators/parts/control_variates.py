"""Functions for estimators with a learned control variate: f and its slopes, and the loss that trains the control."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.distributions import Bernoulli, Categorical
from vae.estimators.contract import Distribution, Estimate, Integrand
from vae.estimators.tools import inject, isolated_loss


def values_and_slopes(f: Integrand, q: Bernoulli | Categorical, z: Array) -> tuple[Float[Array, "K *batch"], Array]:
    """Returns f(z) `[K, *batch]` and the derivative of f in z `[K, *batch, *event]`, both as constants.

    The derivative is 0 in coordinates that are always 0 under q. There the derivative of log q(z) may be infinite.
    """
    values, pull = jax.vjp(f, z)
    slopes = jnp.where(q.mean == 0, 0.0, pull(jnp.ones_like(values))[0])
    return stop_gradient((values, slopes))


def score_of_linear(q: Bernoulli | Categorical, slope: Array) -> Array:
    """The derivative in q's logits of E[slope z], `[*batch, *event]`."""
    return jax.grad(lambda q: jnp.sum(q.mean * slope))(q).logits


def least_variance(
    params: PyTree,
    state: PyTree,
    q: Distribution,
    value: Array,
    gradient: Callable[[PyTree], Array],
) -> Estimate:
    """Returns an estimate with this value `[*batch]`, whose params are trained to minimise its variance.

    `gradient(params)` `[*batch, *event]` is the derivative of the value in the logits of q. `cv_loss` is the mean over
    the batch of its squared length. For an unbiased gradient, the expectation of `cv_loss` is the variance plus a
    constant.
    """
    batch_ndim = len(q.batch_shape)

    def squared_length(params):
        whole = gradient(params)
        return jnp.mean(jnp.sum(jnp.square(whole), axis=tuple(range(batch_ndim, whole.ndim))))

    value = value + inject(q.logits, gradient(params), batch_ndim)
    return Estimate(value, isolated_loss(squared_length, params), state)
