"""RODEO (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497): double control variates whose terms need no known
mean, because a Stein operator gives any function the mean zero.

Let each dimension take another value with that value's probability: E[(A h)(z)] = 0 for (A h)(z) = (1/D) sum_i sum_y
q_i(y) (h(z with z_i = y) - h(z)). h is a network of what the *other* samples know: the mean of their f, and of their
slopes.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vae.estimators.base import Estimate, Estimator, check_positive, hold_density, mean
from vae.estimators.double_cv import least_variance, values_and_slopes
from vae.estimators.local_expectation import other_values
from vae.estimators.score_function import others

LEAK = 0.3  # of the surrogate's leaky ReLUs


def rodeo(num_samples: int = 2, hidden: int = 100) -> Estimator:
    """Leave-one-out of f_j + alpha (A h_j)(z_j), and beta A(h~_k score)(z_k) on top. alpha and beta start at 0, where
    this is leave-one-out; with the network, they are learned."""
    check_positive(hidden=hidden)
    network = _Surrogates(hidden)

    def init(key, q, context=None):
        del context
        zeros = lambda *shape: jnp.zeros(shape, q.logits.dtype)
        return {"network": network.init(key, zeros(), zeros(1)), "alpha": zeros(), "beta": zeros()}, {}

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
        together = jnp.moveaxis(moved, 0, -1)  # [K, *batch, D, A]
        changes = jnp.concatenate([change[..., None], together.reshape(*change.shape, -1)], axis=-1)

        def apart(h):
            """What is of the samples, and of their moves, `[A, K, *batch, D]`."""
            return h[..., 0], jnp.moveaxis(h[..., 1:].reshape(together.shape), -1, 0)

        def gradient(params):
            (h, h_moved), (h_score, h_score_moved) = map(apart, network.apply(params["network"], level, changes))
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


class _Surrogates(nn.Module):
    """H: the level of f and its change, to (h, h~), with one hidden layer of leaky ReLUs.

    Along the change H is a broken line with a knot for each hidden unit. Its pieces are added up once for a sample, and
    each of the sample's many moves is looked up among the sorted knots: log2(hidden) comparisons in place of a network.
    """

    hidden: int

    @nn.compact
    def __call__(self, level: Array, change: Array) -> tuple[Array, Array]:
        """h and h~, both `[*rows, N]`, at N changes `[*rows, N]` from each level `[*rows]`."""
        inner = self.param("inner", nn.initializers.lecun_normal(), (2, self.hidden), change.dtype)
        inner_bias = self.param("inner_bias", nn.initializers.zeros, (self.hidden,), change.dtype)
        outer = self.param("outer", nn.initializers.lecun_normal(), (self.hidden, 2), change.dtype)
        outer_bias = self.param("outer_bias", nn.initializers.zeros, (2,), change.dtype)

        # A hidden unit sees `start` before any change, and is damped on one side of its knot: left of it, if it rises.
        start = level[..., None] * inner[0] + inner_bias  # [*rows, hidden]
        slope = inner[1] + jnp.where(inner[1] == 0, jnp.finfo(inner.dtype).tiny, 0)  # a flat unit's knot is far away
        knots = stop_gradient(-start / slope)
        order = jnp.argsort(knots, axis=-1)
        left = jnp.where(slope > 0, LEAK, 1.0)[:, None]
        right = 1 + LEAK - left
        # What each adds to the two outputs' values and slopes.
        slopes = jnp.broadcast_to(slope[:, None] * outer, (*start.shape, 2))
        lines = jnp.concatenate([start[..., None] * outer, slopes], axis=-1)  # [*rows, hidden, 4]

        first = jnp.sum(left * lines, axis=-2, keepdims=True)
        bends = jnp.take_along_axis((right - left) * lines, order[..., None], axis=-2)
        pieces = jnp.concatenate([first, first + jnp.cumsum(bends, axis=-2)], axis=-2)  # [*rows, hidden + 1, 4]
        piece = _position(jnp.take_along_axis(knots, order, axis=-1), change)
        value, rise = jnp.split(jnp.take_along_axis(pieces, piece[..., None], axis=-2), 2, axis=-1)
        h = value + rise * change[..., None] + outer_bias
        return h[..., 0], h[..., 1]


# How many of the sorted numbers are smaller, in each row.
_position = jnp.vectorize(functools.partial(jnp.searchsorted, method="scan_unrolled"), signature="(m),(n)->(n)")
