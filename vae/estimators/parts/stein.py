"""A Stein operator A for discrete latents: E[(A h)(z)] = 0 for every function h and z ~ q.

The operator is (A h)(z) = (1/D) sum_i sum_y q_i(y) (h(z with z_i = y) - h(z)): the expected change of h when a random
dimension is drawn anew (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497). A move is the change of one
dimension to another value.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def stein(
    probability: Float[Array | np.ndarray, "A K *batch D"],
    h: Float[Array | np.ndarray, "K *batch"],
    h_moved: Float[Array | np.ndarray, "A K *batch D"],
) -> Float[Array, "K *batch"]:
    """Returns (A h)(z), given h(z), h after each move, and the probability of each move."""
    return jnp.mean(jnp.sum(probability * (h_moved - h[..., None]), axis=0), axis=-1)


def stein_of_score(
    probability: Array | np.ndarray,
    moves: Array | np.ndarray,
    score: Array | np.ndarray,
    h: Array | np.ndarray,
    h_moved: Array | np.ndarray,
) -> Array:
    """Returns (A (h score))(z) `[K, *batch, *event]`, for moves `[A, K, *batch, *event]`.

    `probability` and `h_moved` are `[A, K, *batch, D]`, and `h` is `[K, *batch]`. A move changes the score only in the
    dimension that moves, and by the move itself. The sum over moves therefore needs no array of size D x D.
    """
    weight = (probability * h_moved).reshape(h_moved.shape + (1,) * (moves.ndim - h_moved.ndim))
    own = jnp.sum(weight * moves, axis=0) / h_moved.shape[-1]
    return jnp.expand_dims(stein(probability, h, h_moved), tuple(range(h.ndim, score.ndim))) * score + own
