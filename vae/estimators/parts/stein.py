"""A Stein operator for discrete latents: it gives every function the mean zero.

Let one dimension take another value with that value's probability. Then E[(A h)(z)] = 0 for
(A h)(z) = (1/D) sum_i sum_y q_i(y) (h(z with z_i = y) - h(z)) (Shi, Zhou, Hwang, Titsias & Mackey 2022,
arXiv:2202.09497).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def stein(
    probability: Float[Array, "A K *batch D"], h: Float[Array, "K *batch"], h_moved: Float[Array, "A K *batch D"]
) -> Float[Array, "K *batch"]:
    """(A h)(z), from h at z and after each move, and from the probability of each move."""
    return jnp.mean(jnp.sum(probability * (h_moved - h[..., None]), axis=0), axis=-1)


def stein_of_score(probability: Array, moves: Array, score: Array, h: Array, h_moved: Array) -> Array:
    """A(h score)(z) `[K, *batch, *event]`, for moves `[A, K, *batch, *event]` of one dimension each.

    Such a move changes the score only in that dimension, by the move itself. So no array is D x D.
    """
    weight = (probability * h_moved).reshape(h_moved.shape + (1,) * (moves.ndim - h_moved.ndim))
    own = jnp.sum(weight * moves, axis=0) / h_moved.shape[-1]
    return jnp.expand_dims(stein(probability, h, h_moved), tuple(range(h.ndim, score.ndim))) * score + own
