"""A control variate for the pathwise gradient of a Gaussian (Miller, Foti, D'Amour & Adams 2017, arXiv:1705.07880): the
gradient of the second-order expansion of f at the mean of q, whose expectation is known."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimate, Estimator, Integrand, mean
from vae.estimators.tools import check_decay, inject, integrand


def reparam_linear_cv(num_samples: int = 1, decay: float = 0.99) -> Estimator:
    """The gradient is g - c (ghat - E ghat), where g is the pathwise gradient and ghat is the gradient of the expansion
    fhat(z) = f(m) + f'(m) (z - m) + (z - m)' H (z - m) / 2 at the mean m of q.

    The mean and the log-variance have one coefficient c each. A coefficient is the regression of g on its control in
    *earlier* calls, with averages that decay by `decay` per call, and is 1 in the first call. A fit to the current
    samples would bias the gradient. For quadratic f the gradient is exact when c = 1. Each datum costs K + 1
    evaluations of f and D + K Hessian-vector products.
    """
    check_decay(decay)

    def init(key, q, context=None):
        del key, context
        return {}, {name: jnp.zeros(2, q.mean.dtype) for name in ("covariance", "variance")}

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del params, context
        eps = jax.random.normal(key, (num_samples, *q.mean.shape), q.mean.dtype)
        values = lambda q: integrand(f, q, log_q_weight)
        bound = lambda q: reduce(values(q)(q.from_noise(eps)))
        frozen = stop_gradient(q)
        grads = jax.tree.leaves(jax.grad(lambda q: jnp.sum(bound(q)))(frozen))  # two of [*batch, D]
        controls = jax.tree.leaves(jax.grad(lambda q: _expansion_error(values(q), q, eps))(frozen))

        known = state["variance"] > 0
        c = jnp.where(known, state["covariance"] / jnp.where(known, state["variance"], 1.0), 1.0)
        corrections = [c_i * control for c_i, control in zip(c, controls, strict=True)]
        value = bound(q) - inject(jax.tree.leaves(q), corrections, len(q.batch_shape))
        average = lambda old, new: decay * old + (1 - decay) * stop_gradient(new).astype(old.dtype)
        covariance = jnp.stack([jnp.mean(g * h) for g, h in zip(grads, controls, strict=True)])
        variance = jnp.stack([jnp.mean(jnp.square(h)) for h in controls])
        state = {
            "covariance": average(state["covariance"], covariance),
            "variance": average(state["variance"], variance),
        }
        return Estimate(value, jnp.zeros((), value.dtype), state)

    return Estimator(init, estimate)


def _expansion_error(f: Integrand, q, eps):
    """The sum over the batch of mean_k fhat(z_k) - E fhat.

    The sum has expectation zero for every q, so its derivative in q has expectation zero too.
    """
    centre = stop_gradient(q.mean)[None]
    slope, curve = jax.linearize(jax.grad(lambda z: jnp.sum(f(z))), centre)  # f'(m), and v -> H v; one evaluation of f
    step = q.from_noise(eps) - centre  # [K, *batch, D]
    curved = jax.vmap(lambda v: curve(v[None])[0])(step)  # H (z - m)
    samples = jnp.mean(step * (slope + 0.5 * curved), axis=0)
    # The term (mean - centre)' H (mean - centre) / 2 of E fhat is left out: it and its derivative are 0 at the centre.
    expected = (q.mean - centre[0]) * slope[0] + 0.5 * jnp.square(q.scale) * _diagonal(curve, centre)[0]
    return jnp.sum(samples - expected)


def _diagonal(curve, centre):
    """The diagonal of the Hessian `curve` at centre `[1, *batch, D]`, in the shape of centre; all D axes at once."""
    along = lambda axis: jnp.sum(axis * curve(jnp.broadcast_to(axis, centre.shape)), axis=-1)
    return jnp.moveaxis(jax.vmap(along)(jnp.eye(centre.shape[-1], dtype=centre.dtype)), 0, -1)
