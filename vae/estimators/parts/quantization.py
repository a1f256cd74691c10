"""Lengths and directions of vectors, for the estimators of quantized latents."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Vectors = Float[Array | np.ndarray, "... W"]


def length(x: Vectors) -> Float[Array, "... 1"]:
    """The Euclidean length, whose derivative at the zero vector is 0 and not NaN."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def unit(x: Vectors) -> Float[Array, "... W"]:
    """The vector of length 1 in the direction of x; the zero vector stays."""
    size = length(x)
    return x / jnp.where(size > 0, size, 1.0)
