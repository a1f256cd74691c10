"""A linear control variate for Gaussian reparameterization (Miller, Foti, D'Amour & Adams 2017, arXiv:1705.07880): the
gradient of f's second-order expansion at the mean, whose expectation under q is known."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimate, Estimator, check_decay, inject, mean


def reparam_linear_cv(num_samples: int = 1, decay: float = 0.99) -> Estimator:
    """g - c (ghat - E ghat), for mean and log-variance; fhat(z) = f(m) + f'(m) (z - m) + (z - m)' H (z - m) / 2.

    The coefficients c, one for each of the two, are the regression of g on its control over *earlier* calls (1 before
    any): with the current samples they would be biased. Exact for quadratic f. D + K Hessian-vector products a datum.
    """
    check_decay(decay)

    def init(key, q, context=None):
        del key, context
        return {}, {name: jnp.zeros(2, q.mean.dtype) for name in ("covariance", "variance")}

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        del params, context
        eps = jax.random.normal(key, (num_samples, *q.mean.shape), q.mean.dtype)
        bound = lambda q: reduce(f(q.from_noise(eps), q))
        frozen = stop_gradient(q)
        grads = jax.tree.leaves(jax.grad(lambda q: jnp.sum(bound(q)))(frozen))  # two of [*batch, D]
        controls = jax.tree.leaves(jax.grad(lambda q: _expansion_error(f, q, eps))(frozen))

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


def _expansion_error(f, q, eps):
    """sum over the batch of mean_k fhat(z_k) - E fhat: zero on average, for every q, and so is its derivative in q."""
    centre, gradient = stop_gradient(q.mean), jax.grad(lambda z: jnp.sum(f(z, q)))
    step = q.from_noise(eps) - centre  # [K, *batch, D]
    slope, curved = jax.jvp(gradient, (jnp.broadcast_to(centre, step.shape),), (step,))  # f'(m), H (z - m)
    samples = jnp.mean(step * (slope + 0.5 * curved), axis=0)
    # (mean - centre)' H (mean - centre) has neither a value nor a derivative here.
    expected = (q.mean - centre) * slope[0] + 0.5 * jnp.square(q.scale) * _hessian_diagonal(gradient, centre[None])[0]
    return jnp.sum(samples - expected)


def _hessian_diagonal(gradient, z):
    """diag of the Hessian at z `[1, *batch, D]`, of the same shape, all directions at once."""

    def along(axis):
        return jnp.sum(axis * jax.jvp(gradient, (z,), (jnp.broadcast_to(axis, z.shape),))[1], axis=-1)

    return jnp.moveaxis(jax.vmap(along)(jnp.eye(z.shape[-1], dtype=z.dtype)), 0, -1)
