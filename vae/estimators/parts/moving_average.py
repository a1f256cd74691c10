"""The moving average of past values, as a control for new ones."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Distribution


def start(q: Distribution) -> PyTree:
    """The average before any value has been seen."""
    return {"mean": jnp.zeros((), jax.tree.leaves(q)[0].dtype), "count": jnp.zeros((), jnp.int32)}


def read(state: PyTree, decay: float) -> Float[Array, ""]:
    """The bias-corrected average; 0 before any value has been seen."""
    seen = 1 - decay ** state["count"].astype(state["mean"].dtype)
    return jnp.where(state["count"] == 0, 0.0, state["mean"] / jnp.maximum(seen, 1e-12))


def update(state: PyTree, values: Float[Array, "K *batch"], decay: float) -> PyTree:
    """The average with the mean of `values` added."""
    value = jnp.mean(stop_gradient(values)).astype(state["mean"].dtype)
    return {"mean": decay * state["mean"] + (1 - decay) * value, "count": state["count"] + 1}
