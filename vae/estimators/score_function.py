"""The score-function family is one formula: replace f_k by a control that does not depend on z_k, apply `reduce`,
subtract, and let the difference weigh the score of z_k. The estimators differ in the control alone, and leave-one-out
differs from VIMCO in `reduce` alone.

The direct term, the derivative of f in q with z fixed, is kept for multi-sample bounds, which need it (`hold_density`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vae.estimators.base import (
    Estimate,
    Estimator,
    attach,
    check_decay,
    check_positive,
    hold_density,
    isolated_loss,
    log_mean_exp,
    mean,
    stateless,
)
from vae.estimators.baseline import Baseline, features_of


def score_surrogate(q, z, values: Array, control: Array, reduce: Callable) -> Array:
    """`reduce(values)` forward; backward the score-function gradient with `control` `[K, *batch]` for each f_k."""
    return _weigh_scores(q, z, reduce(values), learning_signal(values, control, reduce))


def _weigh_scores(q, z, bound: Array, signal: Array) -> Array:
    return attach(bound, bound + jnp.sum(stop_gradient(signal) * q.log_prob(z), axis=0))


def learning_signal(values: Array, control: Array, reduce: Callable) -> Array:
    """What the reduced f loses when f_k is replaced by its control, for each k, `[K, *batch]`."""
    if reduce in (mean, log_mean_exp):  # which commute with a shift
        centre = stop_gradient(values[:1])  # a signal is of the size of differences, which large f would round away
        values, control = values - centre, control - centre
    eye = jnp.eye(len(values), dtype=bool).reshape(len(values), len(values), *[1] * (values.ndim - 1))
    replaced = jnp.where(eye, control[:, None], values[None])  # [k, j, *batch]: all f_j but the k-th
    return reduce(values) - jax.vmap(reduce)(replaced)


def others(x: Array) -> Array:
    """The mean over the other samples, for each sample: `[K, ...]` to `[K, ...]`."""
    return (jnp.sum(x, axis=0) - x) / (len(x) - 1)


def _sample_and_evaluate(key, q, f, reduce, num_samples):
    z = q.sample(key, num_samples)
    return z, hold_density(f, reduce)(z, q)


def reinforce(num_samples: int = 1) -> Estimator:
    """REINFORCE (Williams 1992; Ranganath, Gerrish & Blei 2014, arXiv:1401.0118): no control at all. Of the mean, f_k
    weighs the score of its own sample; of a bound that does not split into samples, the whole bound weighs them all."""

    def estimate(key, q, f, reduce):
        z, values = _sample_and_evaluate(key, q, f, reduce, num_samples)
        bound = reduce(values)
        signal = values / num_samples if reduce is mean else jnp.broadcast_to(bound, values.shape)
        return _weigh_scores(q, z, bound, signal)

    return stateless(estimate)


def leave_one_out(num_samples: int = 2) -> Estimator:
    """The mean of the other samples' f (Kool, van Hoof & Welling 2019; Salimans & Knowles 2014, arXiv:1401.1022).

    With `log_mean_exp` this is VIMCO with the geometric mean (Mnih & Rezende 2016, arXiv:1602.06725).
    """

    def estimate(key, q, f, reduce):
        z, values = _sample_and_evaluate(key, q, f, reduce, num_samples)
        return score_surrogate(q, z, values, others(values), reduce)

    return stateless(estimate)


def reinforce_ema(num_samples: int = 1, decay: float = 0.99) -> Estimator:
    """A moving average of past f as control, updated after use: with its own samples in it, it would be biased."""
    check_decay(decay)

    def init(key, q, context=None):
        del key, context
        return {}, _ema_init(q)

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        del params, context
        z, values = _sample_and_evaluate(key, q, f, reduce, num_samples)
        control = jnp.broadcast_to(_ema_read(state, decay), values.shape)
        value = score_surrogate(q, z, values, control, reduce)
        return Estimate(value, jnp.zeros((), value.dtype), _ema_update(state, values, decay))

    return Estimator(init, estimate)


def nvil(num_samples: int = 1, decay: float = 0.99, hidden: int = 100) -> Estimator:
    """NVIL (Mnih & Gregor 2014, arXiv:1402.0030): a moving average plus a network of the context as control.

    Without the paper's division by the running standard deviation, which rescales the gradient and so biases it. The
    network, one hidden layer of `hidden` tanh units, is fitted to f by least squares (`cv_loss`).
    """
    check_decay(decay)
    check_positive(hidden=hidden)
    network = Baseline(hidden)

    def init(key, q, context=None):
        return network.init(key, features_of(q, context)), _ema_init(q)

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        z, values = _sample_and_evaluate(key, q, f, reduce, num_samples)
        centre, features = _ema_read(state, decay), features_of(q, context)
        target = stop_gradient(values) - centre
        cv_loss = isolated_loss(lambda p: jnp.mean(jnp.square(target - network.apply(p, features))), params)
        control = jnp.broadcast_to(centre + stop_gradient(network.apply(params, features)), values.shape)
        return Estimate(score_surrogate(q, z, values, control, reduce), cv_loss, _ema_update(state, values, decay))

    return Estimator(init, estimate)


def _ema_init(q):
    return {"mean": jnp.zeros((), jax.tree.leaves(q)[0].dtype), "count": jnp.zeros((), jnp.int32)}


def _ema_read(state, decay: float) -> Array:
    """The bias-corrected average of what has been seen; 0 before anything has."""
    seen = 1 - decay ** state["count"].astype(state["mean"].dtype)
    return jnp.where(state["count"] == 0, 0.0, state["mean"] / jnp.maximum(seen, 1e-12))


def _ema_update(state, values: Array, decay: float):
    value = jnp.mean(stop_gradient(values)).astype(state["mean"].dtype)
    return {"mean": decay * state["mean"] + (1 - decay) * value, "count": state["count"] + 1}
