"""Local expectation: one dimension is summed over, the others stay as sampled.

The gradient of dimension d is the sum over its values y of q_d(y) (f(z with z_d = y) - f(z)) (y - mean_d). There
y - mean_d is the score of y, and f(z) may be subtracted because the scores sum to zero: z_d costs no second evaluation.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vae import distributions
from vae.estimators.base import Estimator, hold_density, inject, stateless


def local_expectation(num_samples: int = 1) -> Estimator:
    """Local expectation gradients (Titsias & Lázaro-Gredilla 2015, arXiv:1503.01494): every dimension and value in
    turn. 1 + D evaluations of f a sample for Bernoulli, 1 + D (C - 1) for Categorical; exact where D = 1."""

    def estimate(key, q, f, reduce):
        f = hold_density(f, reduce)
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        values = f(z, q)  # [K, *batch]
        others, probability = other_values(q, z)
        differences = changed_one_by_one(f, q, z, others) - values[..., None]
        grad = expected_score(q, others, probability * differences)
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)


def bitflip(num_samples: int = 1) -> Estimator:
    """Bitflip-1 (Kunes et al. 2022, arXiv:2208.06124): one bit, chosen evenly, speaks for all D and counts D times. Two
    evaluations of f a sample."""

    def estimate(key, q, f, reduce):
        f = hold_density(f, reduce)
        key_z, key_bit = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D]
        values = f(z, q)  # [K, *batch]
        others, probability = other_values(q, z)
        width = z.shape[-1]
        bit = jax.nn.one_hot(jax.random.randint(key_bit, values.shape, 0, width), width, dtype=z.dtype)
        difference = f(jnp.where(bit == 1, others[0], z), q) - values
        grad = expected_score(q, others, probability * width * bit * difference[..., None])
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)


def other_values(q, z: Array) -> tuple[Array, Array]:
    """What each dimension could be in place of its z, `[A, K, *batch, *event]`, and how probable that is,
    `[A, K, *batch, D]`: the A = 1 other value of a bit, the A = C - 1 other classes."""
    if isinstance(q, distributions.Bernoulli):
        others = (1 - z)[None]
        return others, jax.nn.sigmoid((2 * others - 1) * q.logits)
    others = jnp.stack([jnp.roll(z, shift, axis=-1) for shift in range(1, z.shape[-1])])
    return others, jnp.sum(others * q.mean, axis=-1)


def changed_one_by_one(f, q, z: Array, others: Array) -> Array:
    """f `[A, K, *batch, D]` of z with one dimension at a time taken from `others` `[A, K, *batch, *event]`."""
    batch_ndim = len(q.batch_shape)
    width, event_ndim = z.shape[1 + batch_ndim], z.ndim - 1 - batch_ndim
    one = jnp.eye(width, dtype=bool).reshape(width, *[1] * (1 + batch_ndim), width, *[1] * (event_ndim - 1))
    changed = jnp.where(one, others[:, None], z)  # [A, D, K, *batch, *event]
    values = f(changed.reshape(-1, *z.shape[1:]), q)
    return jnp.moveaxis(values.reshape(changed.shape[: 3 + batch_ndim]), 1, -1)


def expected_score(q, others: Array, weights: Array) -> Array:
    """The mean over samples of the sum over others of weight `[A, K, *batch, D]` times score, `[*batch, *event]`."""
    weights = weights.reshape(weights.shape + (1,) * (others.ndim - weights.ndim))
    return jnp.mean(jnp.sum(weights * (others - q.mean), axis=0), axis=0)
