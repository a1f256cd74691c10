"""RODEO (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497): double control variates whose terms need no known
mean, because a Stein operator gives any function the mean zero.

Flip each bit with the probability of its other value: E[(A h)(z)] = 0 for (A h)(z) = (1/D) sum_i q_i(1 - z_i) (h(z with
bit i flipped) - h(z)). h is a network of what the *other* samples know: the mean of their f, and of their slopes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae.estimators.base import Estimate, Estimator, hold_density, mean
from vae.estimators.double_cv import least_variance, others, values_and_slopes

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
        score, flip = z - q.mean, 1 - 2 * z
        # To first order around the other samples, f changes by this from them to z, and by slope * flip with each flip.
        level, slope = others(values), others(slopes)
        change = jnp.sum(slope * z, axis=-1) - others(jnp.sum(slopes * z, axis=-1))  # [K, *batch]
        flipped = change[..., None] + slope * flip  # [K, *batch, D]

        def gradient(params):
            h, h_score = _in_pieces(network, params["network"], level, change)
            h_flipped, h_score_flipped = _in_pieces(network, params["network"], level[..., None], flipped)
            v = values + params["alpha"] * stein(q, z, h, h_flipped)
            leave_one_out = (values - others(v))[..., None] * score
            return mean(leave_one_out + params["beta"] * stein_of_score(q, z, h_score, h_score_flipped))

        return least_variance(params, state, q, lambda q: reduce(hold_density(f, reduce)(z, q)), gradient)

    return Estimator(init, estimate)


def stein(q, z: Array, h: Array, h_flipped: Array) -> Array:
    """(A h)(z) `[K, *batch]`, from h at z `[K, *batch]` and with each bit flipped `[K, *batch, D]`."""
    return jnp.mean(_flip_probability(q, z) * (h_flipped - h[..., None]), axis=-1)


def stein_of_score(q, z: Array, h: Array, h_flipped: Array) -> Array:
    """A(h score)(z) `[K, *batch, D]`. A flip of bit i changes the score in coordinate i alone: nothing is D x D."""
    own = _flip_probability(q, z) * (1 - 2 * z) * h_flipped / z.shape[-1]
    return stein(q, z, h, h_flipped)[..., None] * (z - q.mean) + own


def _flip_probability(q, z: Array) -> Array:
    return jax.nn.sigmoid((1 - 2 * z) * q.logits)


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
