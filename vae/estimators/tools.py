"""The tools that estimators are made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Distribution, Estimate, Estimator, Integrand, Reduction, mean


def integrand(f: Integrand, q: Distribution, log_q_weight: float) -> Integrand:
    """The function z -> f(z) - c log q(z) that the reduction is applied to. Each estimator decides which q is meant:
    q itself, `held(q, reduce)` or `stop_gradient(q)`."""
    if isinstance(log_q_weight, int | float) and log_q_weight == 0:
        return f
    return lambda z: f(z) - log_q_weight * q.log_prob(z)


def held(q: Distribution, reduce: Reduction) -> Distribution:
    """q as a constant where `reduce` is additive, else q itself; for estimators that draw z by `q.sample`.

    At such samples the derivative of log q(z) in q has mean zero. In the gradient of a mean it is only noise, which
    would remain even where q is the exact posterior and leave-one-out has none (VarGrad, Richter et al. 2020,
    arXiv:2010.10436). Multi-sample bounds need the term (Mnih & Rezende 2016, arXiv:1602.06725).
    """
    return stop_gradient(q) if reduce.additive else q


def stateless(estimate: Callable[..., Array]) -> Estimator:
    """The estimator without params and state, from `estimate(key, q, f, reduce, log_q_weight) -> value [*batch]`."""

    def init(key, q, context=None):
        del key, q, context
        return {}, {}

    def call(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del params, context
        value = estimate(key, q, f, reduce, log_q_weight)
        return Estimate(value, jnp.zeros((), value.dtype), state)

    return Estimator(init, call)


@jax.custom_jvp
def attach(value: Array, surrogate: Array) -> Array:
    """Forward exactly `value`; backward the derivative of `surrogate`. Both have one shape.

    Unlike value + surrogate - stop_gradient(surrogate), an infinite surrogate leaves the value as it is.
    """
    del surrogate
    return value


@attach.defjvp
def _attach_jvp(primals, tangents):
    return primals[0], tangents[1]


def inject(tree: PyTree, grads: PyTree, batch_ndim: int = 0) -> Array:
    """A zero whose derivative in `tree` is `grads`: any hand-made gradient becomes a term of the objective.

    The result keeps `batch_ndim` leading axes, `[*batch]`, and its entry b has the derivative `grads[b]`.
    """
    products = jax.tree.map(lambda x, g: x * stop_gradient(g), tree, grads)
    sums = [jnp.sum(p, axis=tuple(range(batch_ndim, p.ndim))) for p in jax.tree.leaves(products)]
    surrogate = sum(sums)
    return attach(jnp.zeros_like(surrogate), surrogate)


def scale_cotangent(x: PyTree, weight: Array) -> PyTree:
    """Forward x; backward the cotangent times `weight` `[K, *batch]`, which spans the leading axes of every leaf."""
    return jax.tree.map(lambda leaf: _scale(leaf, weight), x)


@jax.custom_jvp
def _scale(x: Array, weight: Array) -> Array:
    del weight
    return x


@_scale.defjvp
def _scale_jvp(primals, tangents):
    (x, weight), (x_dot, _) = primals, tangents
    return x, x_dot * weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))


def isolated_loss(loss_fn: Callable[[PyTree], Array], params: PyTree) -> Float[Array, ""]:
    """`loss_fn(params)`, whose derivative reaches `params` and nothing that `loss_fn` closes over."""
    value, grads = jax.value_and_grad(loss_fn)(stop_gradient(params))
    return stop_gradient(value) + inject(params, grads)


def check_positive(**options: float) -> None:
    """Raises ValueError with the name and the value of an option that is not above 0. Traced values pass."""
    for name, value in options.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_decay(decay: float) -> None:
    """Raises ValueError if the decay of a moving average is outside [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
