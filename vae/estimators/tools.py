"""The functions that estimators are made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vae.distributions.special import differentiable_once
from vae.distributions.special import first_derivative_only as first_derivative_only
from vae.estimators.contract import Distribution, Estimate, Estimator, Integrand, Reduction, Samples, mean


def integrand(f: Integrand, q: Distribution, log_q_weight: float | Array) -> Integrand:
    """Returns the function z -> f(z) - c log q(z), where c is `log_q_weight`. The reduction is applied to its values.

    Each estimator decides how the density is differentiated, by passing q itself, `held(q, reduce)` or
    `stop_gradient(q)`.

    Raises:
      ValueError: when the function is traced, if f does not return floats `[K, *batch]`.
    """

    def values_of(z: Samples) -> Float[Array, "K *batch"]:
        values = f(z)
        _check_values(values, shape=(jax.tree.leaves(z)[0].shape[0], *q.batch_shape))
        return values if is_zero(log_q_weight) else values - log_q_weight * q.log_prob(z)

    return values_of


def pathwise_values(
    f: Integrand, q: Distribution, log_q_weight: float | Array, z: Samples, log_q: Float[Array, "K *batch"]
) -> Float[Array, "K *batch"]:
    """Returns f(z) - c log q(z) for samples with a known density `log_q`, as `rsample_and_log_prob` draws them.

    An estimator that evaluates q nowhere else uses this function in place of `integrand`. The estimator then accepts
    flows without an inverse.

    Raises:
      ValueError: if f does not return floats `[K, *batch]`.
    """
    values = integrand(f, q, 0.0)(z)
    return values if is_zero(log_q_weight) else values - log_q_weight * log_q


def rsample_and_log_prob(
    q: Distribution, key: PRNGKeyArray, num_samples: int
) -> tuple[Samples, Float[Array, "{num_samples} *batch"]]:
    """Draws z with a path, and log q(z): by q's method of this name, or by `rsample` and `log_prob`."""
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(key, num_samples)
    z = q.rsample(key, num_samples)
    return z, q.log_prob(z)


def rsample_and_density(
    q: Distribution, key: PRNGKeyArray, num_samples: int
) -> tuple[Samples, Callable[[Samples], Float[Array, "{num_samples} *batch"]]]:
    """Draws z with a path, and returns log q as a function that holds q and is to be called at z.

    Flows have a method of this name, which needs no inverse. For other q the function is `stop_gradient(q).log_prob`.
    """
    if hasattr(q, "rsample_and_density"):
        return q.rsample_and_density(key, num_samples)
    return q.rsample(key, num_samples), stop_gradient(q).log_prob


def is_zero(number: float | np.number | Array) -> bool:
    """Whether the number is known to be zero. An array may be traced, so it is never known."""
    return isinstance(number, int | float | np.number) and bool(number == 0)


def _check_values(values: Any, shape: tuple[int, ...]) -> None:
    expected = f"f(z) must return an array of floats of shape [K, *batch] = {list(shape)}"
    if not isinstance(values, Array):
        raise ValueError(f"{expected}, got {type(values).__name__}")
    if values.shape != shape or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{expected}, got {values.dtype} of shape {list(values.shape)}")


def held(q: Distribution, reduce: Reduction) -> Distribution:
    """Returns q as a constant if `reduce` is additive, and q itself otherwise.

    The function is for estimators that draw z by `q.sample`. At such samples, the derivative of log q(z) in the
    parameters of q has mean zero. In the gradient of a mean, that term is only noise, and the noise would remain even
    where q is the exact posterior and leave-one-out has no other noise (VarGrad, Richter et al. 2020,
    arXiv:2010.10436). The gradient of a multi-sample bound needs the term (Mnih & Rezende 2016, arXiv:1602.06725).
    """
    return stop_gradient(q) if reduce.additive else q


def stateless(estimate: Callable[..., Array]) -> Estimator:
    """Makes an estimator without params and state of `estimate(key, q, f, reduce, log_q_weight) -> value [*batch]`."""

    def init(key, q, context=None):
        del key, q, context
        return {}, {}

    def call(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del params, context
        value = estimate(key, q, f, reduce, log_q_weight)
        return Estimate(value, jnp.zeros((), value.dtype), state)

    return Estimator(init, call)


@jax.custom_jvp
def attach(value: Array, surrogate: Array | int) -> Array:
    """Returns `value`, with the derivative of `surrogate` in place of its own. Both arguments have the same shape.

    An infinite surrogate leaves the value intact, but would turn value + surrogate - stop_gradient(surrogate) into NaN.
    A second derivative raises NotImplementedError.
    """
    # Both branches are the value. The condition gives the value the axes that `vmap` has added to the surrogate, which
    # the derivative has too.
    return jnp.where(surrogate == surrogate, value, value)


@attach.defjvp
def _attach_jvp(primals, tangents):
    tangent = tangents[1] * differentiable_once(primals[1])
    return attach(*primals), tangent.astype(primals[0].dtype)  # a float32 codebook may get float64 encodings


def with_own_loss(q: Distribution, bound: Estimate) -> Estimate:
    """Returns the bound. If q has a loss of its own, as `Quantized` does, the derivative is that of bound - loss."""
    return bound._replace(value=attach(bound.value, bound.value - q.loss())) if hasattr(q, "loss") else bound


def inject(tree: PyTree, grads: PyTree, batch_ndim: int = 0) -> Array:
    """Returns a zero whose derivative in `tree` is `grads`. Adding the zero to a bound adds `grads` to its gradient.

    `grads` has the structure and shapes of `tree`. The result has the first `batch_ndim` axes of the leaves,
    `[*batch]`, and its entry b has the derivative `grads[b]`.
    """
    products = jax.tree.map(lambda x, g: x * stop_gradient(g), tree, grads)
    sums = [jnp.sum(p, axis=tuple(range(batch_ndim, p.ndim))) for p in jax.tree.leaves(products)]
    surrogate = sum(sums)
    return attach(jnp.zeros_like(surrogate), surrogate)


def scale_cotangent(x: PyTree, weight: Array) -> PyTree:
    """Returns x, and multiplies its cotangent by `weight` `[K, *batch]`, the leading axes of every leaf of x.

    A second derivative raises NotImplementedError.
    """
    return jax.tree.map(lambda leaf: _scale(leaf, weight), x)


@jax.custom_jvp
def _scale(x: Array, weight: Array) -> Array:
    del weight
    return x


@_scale.defjvp
def _scale_jvp(primals, tangents):
    (x, weight), (x_dot, _) = primals, tangents
    weight = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
    return _scale(x, primals[1]), x_dot * weight * differentiable_once(x)


def isolated_loss(loss_fn: Callable[[PyTree], Array], params: PyTree) -> Float[Array, ""]:
    """Returns `loss_fn(params)`, with a derivative in `params` but none in the arrays that `loss_fn` closes over."""
    value, grads = jax.value_and_grad(loss_fn)(stop_gradient(params))
    return stop_gradient(value) + inject(params, grads)


def check_positive(**options: float | Array) -> None:
    """Raises ValueError with the name and the value of an option that is not one number above 0. Traced values pass."""
    for name, value in options.items():
        if jnp.ndim(value) != 0:
            raise ValueError(f"{name} must be one number, got shape {list(jnp.shape(value))}")
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_decay(decay: float) -> None:
    """Raises ValueError if the decay of a moving average is outside [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
