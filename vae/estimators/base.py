"""The contract of every gradient estimator, and the small tools that carry it.

An estimator differentiates E[reduce(f(z_1), ..., f(z_K))], z_k ~ q, in q and in all that f closes over. It is a pair of
pure functions: `init` makes what it learns (params) and what it counts (state); `estimate` returns the value with the
gradient estimate attached, so that one `jax.grad` over model and estimator parameters gives every gradient at once.

Limit, stated once: only first-order gradients pass through `attach`; a per-sample network gradient is `vmap` over keys.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

PyTree = Any


class Estimate(NamedTuple):
    """What an estimator returns.

    Attributes:
      value: `[*batch]`, to be maximised. Forward: the Monte Carlo value, never a surrogate. Derivative, in q and in all
        that f closes over: the gradient estimate.
      cv_loss: `[]`, to be minimised. Its derivative reaches the estimator's own params and nothing else.
      state: moving averages and counters, for the next call.
    """

    value: Array
    cv_loss: Array
    state: PyTree


class Estimator(NamedTuple):
    """A gradient estimator: `init(key, q, context) -> (params, state)` and
    `estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate`.

    `f(z, q) -> [K, *batch]` must work for any leading K. q is handed back to f so that the estimator may stop the
    gradient into its density or keep it: f may depend on q as a log-weight does, by a multiple of log q(z) that is the
    same for all z, and by what does not depend on z, its mean or a closed-form KL. `reduce` is `mean` itself, which is
    known by its identity, or else of several samples: `log_mean_exp`, or a function of yours. `context` is what an
    input-dependent baseline may look at: usually x.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    estimate: Callable[..., Estimate]


def mean(values: Array) -> Array:
    """`[K, *batch]` to `[*batch]`: the reduction of the ELBO."""
    return jnp.mean(values, axis=0)


def log_mean_exp(values: Array) -> Array:
    """log (1/K) sum_k exp(values_k), `[K, *batch]` to `[*batch]`: the reduction of the importance-weighted bound
    (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519)."""
    return jax.nn.logsumexp(values, axis=0) - jnp.log(values.shape[0])


def hold_density(f: Callable, reduce: Callable) -> Callable:
    """f without the derivative in q of the density log q(z) where `reduce` is the mean; for estimators that sample q.

    That derivative has at samples z the mean zero: in the gradient of the mean it is noise, which would stay even where
    q is the posterior and leave-one-out has none (VarGrad, Richter et al. 2020, arXiv:2010.10436). Multi-sample bounds
    need it (Mnih & Rezende 2016, arXiv:1602.06725).
    """
    return (lambda z, q: f(z, _with_held_density(q))) if reduce is mean else f


def _with_held_density(q: PyTree) -> PyTree:
    """q of the same type and leaves, with the parameters behind `log_prob` alone held."""
    held = copy.copy(q)
    object.__setattr__(held, "log_prob", stop_gradient(q).log_prob)  # a family is a frozen dataclass
    return held


def check_positive(**options: float) -> None:
    """Refuses an option of an estimator that is not above 0, by its name; traced values pass.

    Raises:
      ValueError: with the option and its value.
    """
    for name, value in options.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_decay(decay: float) -> None:
    """Refuses the decay of a moving average that does not decay.

    Raises:
      ValueError: with its value.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")


def stateless(estimate: Callable[..., Array]) -> Estimator:
    """The estimator that learns and counts nothing, from `estimate(key, q, f, reduce) -> value`."""

    def init(key: Array, q: PyTree, context: PyTree = None):
        del key, q, context
        return {}, {}

    def call(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        del params, context
        value = estimate(key, q, f, reduce)
        return Estimate(value, jnp.zeros((), value.dtype), state)

    return Estimator(init, call)


@jax.custom_jvp
def attach(value: Array, surrogate: Array) -> Array:
    """Forward exactly `value`, backward the derivative of `surrogate`, both of one shape.

    Unlike value + surrogate - stop_gradient(surrogate), an infinite surrogate leaves the value as it is.
    """
    del surrogate
    return value


@attach.defjvp
def _attach_jvp(primals, tangents):
    return primals[0], tangents[1]


def inject(tree: PyTree, grads: PyTree, batch_ndim: int = 0) -> Array:
    """Zero, whose derivative in `tree` is `grads`: any hand-made gradient becomes a term of the objective.

    With `batch_ndim` leading axes kept, the result is `[*batch]` and its entry b has the derivative `grads[b]`.
    """
    products = jax.tree.map(lambda x, g: x * stop_gradient(g), tree, grads)
    sums = [jnp.sum(p, axis=tuple(range(batch_ndim, p.ndim))) for p in jax.tree.leaves(products)]
    surrogate = sum(sums)
    return attach(jnp.zeros_like(surrogate), surrogate)


def scale_cotangent(x: PyTree, weight: Array) -> PyTree:
    """x forward; backward the cotangent times `weight` `[K, *batch]`, which spans the leading axes of every leaf."""
    return jax.tree.map(lambda leaf: _scale(leaf, weight), x)


@jax.custom_jvp
def _scale(x: Array, weight: Array) -> Array:
    del weight
    return x


@_scale.defjvp
def _scale_jvp(primals, tangents):
    (x, weight), (x_dot, _) = primals, tangents
    return x, x_dot * weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))


def isolated_loss(loss_fn: Callable[[PyTree], Array], params: PyTree) -> Array:
    """`loss_fn(params)`, whose derivative reaches `params` and nothing that `loss_fn` closes over."""
    value, grads = jax.value_and_grad(loss_fn)(stop_gradient(params))
    return stop_gradient(value) + inject(params, grads)
