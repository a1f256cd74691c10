"""An exponential moving average of past values, which serves as a control for new values."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Distribution


def start(q: Distribution) -> PyTree:
    """Returns the state of the average before any values: a biased mean and a count of the calls."""
    return {"mean": jnp.zeros((), jax.tree.leaves(q)[0].dtype), "count": jnp.zeros((), jnp.int32)}


def read(state: PyTree, decay: float) -> Float[Array, ""]:
    """Returns the bias-corrected average (Kingma & Ba 2014, arXiv:1412.6980, section 3), or 0 before any values."""
    seen = 1 - decay ** state["count"].astype(state["mean"].dtype)
    return jnp.where(state["count"] == 0, 0.0, state["mean"] / jnp.maximum(seen, 1e-12))


def update(state: PyTree, values: Float[Array, "K *batch"], decay: float) -> PyTree:
    """Returns the state after adding the mean of the finite values, or the same state if no value is finite.

    A value of -inf, that of an impossible state, would stay in the average for ever.
    """
    finite = jnp.isfinite(values)
    values = stop_gradient(jnp.where(finite, values, 0.0)).astype(state["mean"].dtype)
    value = jnp.sum(values) / jnp.maximum(jnp.sum(finite), 1).astype(values.dtype)
    after = {"mean": decay * state["mean"] + (1 - decay) * value, "count": state["count"] + 1}
    return jax.tree.map(lambda new, old: jnp.where(jnp.any(finite), new, old), after, state)
