"""RODEO (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497): double control variates whose terms need no known
mean, because a Stein operator gives any function the mean zero.

Let each dimension take another value with that value's probability: E[(A h)(z)] = 0 for (A h)(z) = (1/D) sum_i sum_y
q_i(y) (h(z with z_i = y) - h(z)). h is a network of what the *other* samples know: the mean of their f, and of their
slopes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae.estimators.base import Estimate, Estimator, hold_density, mean
from vae.estimators.double_cv import least_variance, others, values_and_slopes
from vae.estimators.local_expectation import other_values

PIECE = {"cpu": 2**11}  # numbers that go through the network at once; elsewhere 2^18, whose hidden layer is 100 MB


def rodeo(num_samples: int = 2, hidden: int = 100) -> Estimator:
    """Leave-one-out of f_j + alpha (A h_j)(z_j), and beta A(h~_k score)(z_k) on top. alpha and beta start at 0, where
    this is leave-one-out; with the network, they are learned."""
    network = _Surrogates(hidden)

    def init(key, q, context=None):
        del context
        params = network.init(key, jnp.zeros(q.batch_shape), jnp.zeros(q.batch_shape))
        return {"network": params, "alpha": jnp.zeros(()), "beta": jnp.zeros(())}, {}

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        del context
        z = q.sample(key, num_samples)  # [K, *batch, D]
        values, slopes = values_and_slopes(f, q, z)
        elsewhere, probability = other_values(q, z)  # [A, K, *batch, *event], [A, K, *batch, D]
        score, moves, event = z - q.mean, elsewhere - z, tuple(range(values.ndim, z.ndim))
        # To first order around the other samples, f changes by this from them to z, and by slope * move with each move.
        level, slope = others(values), others(slopes)
        change = jnp.sum(slope * z, axis=event) - others(jnp.sum(slopes * z, axis=event))  # [K, *batch]
        moved = change[..., None] + jnp.sum(slope * moves, axis=tuple(range(probability.ndim, moves.ndim)))

        def gradient(params):
            h, h_score = _in_pieces(network, params["network"], level, change)
            h_moved, h_score_moved = _in_pieces(network, params["network"], level[..., None], moved)
            v = values + params["alpha"] * stein(probability, h, h_moved)
            leave_one_out = jnp.expand_dims(values - others(v), event) * score
            on_top = stein_of_score(probability, moves, score, h_score, h_score_moved)
            return mean(leave_one_out + params["beta"] * on_top)

        bound = lambda q: reduce(hold_density(f, reduce)(z, q))
        return least_variance(params, state, q, bound, gradient)

    return Estimator(init, estimate)


def stein(probability: Array, h: Array, h_moved: Array) -> Array:
    """(A h)(z) `[K, *batch]`, of h at z `[K, *batch]` and after each move `[A, K, *batch, D]`, with its probability."""
    return jnp.mean(jnp.sum(probability * (h_moved - h[..., None]), axis=0), axis=-1)


def stein_of_score(probability: Array, moves: Array, score: Array, h: Array, h_moved: Array) -> Array:
    """A(h score)(z) `[K, *batch, *event]`, for moves `[A, K, *batch, *event]` of one dimension each. Such a move
    changes the score in that dimension alone, by itself: nothing is D x D."""
    weight = (probability * h_moved).reshape(h_moved.shape + (1,) * (moves.ndim - h_moved.ndim))
    own = jnp.sum(weight * moves, axis=0) / h_moved.shape[-1]
    return jnp.expand_dims(stein(probability, h, h_moved), tuple(range(h.ndim, score.ndim))) * score + own


def _in_pieces(network, params, level: Array, change: Array) -> tuple[Array, Array]:
    """`network` of all numbers in turn. Its hidden layers for every flip of every sample would be the largest array of
    the whole step; in pieces they stay in a CPU's cache, which takes a sixth of the time. An accelerator would wait
    for the start of each small piece."""
    level, change = jnp.broadcast_arrays(level, change)
    of_one = jax.checkpoint(lambda pair: network.apply(params, *pair))
    piece = PIECE.get(jax.default_backend(), 2**18)
    found = jax.lax.map(of_one, (level.ravel(), change.ravel()), batch_size=piece)
    return tuple(h.reshape(change.shape) for h in found)


class _Surrogates(nn.Module):
    """H: the level of f and its change, of one shape but for broadcasting, to (h, h~) of that shape."""

    hidden: int

    @nn.compact
    def __call__(self, level: Array, change: Array) -> tuple[Array, Array]:
        x = jnp.stack(jnp.broadcast_arrays(level, change), axis=-1)
        x = nn.leaky_relu(nn.Dense(self.hidden)(x), 0.3)
        x = nn.Dense(2)(x)
        return x[..., 0], x[..., 1]
