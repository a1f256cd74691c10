"""Draws of a gradient estimate."""

import jax
import jax.numpy as jnp
import numpy as np

from vae.estimators import mean


def draw_gradients(
    estimator, p, f, draws, *, posterior=lambda q: q, reduce=mean, log_q_weight=0.0, params=None, seed=0
):
    """Returns independent gradients in p, where q = posterior(p): the tree of p with leaves `[draws, ...]`, in float64.

    `params` are those of the estimator, which must have no state.
    """

    def value(p, key):
        estimate = estimator.estimate(params or {}, {}, key, posterior(p), f, reduce, log_q_weight)
        return jnp.sum(estimate.value)

    run = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
    return jax.tree.map(np.float64, run(p, jax.random.split(jax.random.key(seed), draws)))
