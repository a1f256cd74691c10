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
    """Returns the state after adding the mean of `values`."""
    value = jnp.mean(stop_gradient(values)).astype(state["mean"].dtype)
    return {"mean": decay * state["mean"] + (1 - decay) * value, "count": state["count"] + 1}
