"""Randomized quasi-Monte Carlo (Buchholz, Wenzel & Mandt 2018, arXiv:1807.01604): noise that fills the space evenly."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from vae.estimators.contract import Estimator
from vae.estimators.tools import pathwise_values, stateless


def reparam_rqmc(num_samples: int = 1) -> Estimator:
    """The pathwise gradient with Sobol' points in place of independent noise.

    The points are scrambled anew for every datum and every call. Each point by itself is uniform, so the gradient is
    unbiased. Together the points fill the space evenly, so the variance is lower. D may be at most 21201.

    Raises:
      ValueError: if num_samples is not a power of 2.
    """
    if num_samples & (num_samples - 1):
        raise ValueError(f"Sobol' points come in powers of 2: num_samples={num_samples} must be a power of 2")

    def estimate(key, q, f, reduce, log_q_weight):
        eps = _scrambled_normal(key, num_samples, q.noise_shape)  # [K, *batch, D]
        z, log_q = q.from_noise_and_log_prob(eps.astype(jax.tree.leaves(q)[0].dtype))
        return reduce(pathwise_values(f, q, log_q_weight, z, log_q))

    return stateless(estimate)


def _scrambled_normal(key: Array, num_samples: int, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers `[K, *shape]` from a Sobol' sequence in `shape[-1]` dimensions.

    The sequence is scrambled independently for each index of the other axes of `shape`.
    """
    from scipy.stats import qmc  # slow to import

    points = qmc.Sobol(shape[-1], scramble=False, bits=32).random(num_samples)  # [K, D] in [0, 1)
    bits = jnp.asarray((points * 2**32).astype(np.uint64).astype(np.uint32))
    bits = bits.reshape(num_samples, *[1] * (len(shape) - 1), shape[-1])
    key_scramble, key_shift = jax.random.split(key)
    bits = _owen_scramble(bits, jax.random.bits(key_scramble, shape, jnp.uint32))
    # The random shift makes each point exactly uniform, even if the hash is imperfect.
    bits = bits ^ jax.random.bits(key_shift, shape, jnp.uint32)
    return _normal(bits)


def _normal(bits: Array) -> Array:
    """Turns 32 random bits into a standard normal number: the quantile of the midpoint of one of 2^23 cells of [0, 1].

    With 2^24 cells, float32 would round the last midpoint to 1, whose quantile is infinite.
    """
    return ndtri(((bits >> 9).astype(jnp.float32) + 0.5) / 2**23)


def _owen_scramble(bits: Array, seed: Array) -> Array:
    """Nested uniform scrambling by a hash of the higher bits (Burley 2020, "Practical Hash-based Owen Scrambling").

    The constants are those of Vegdahl (2021, "Building a Better LK Hash").
    """
    x = _reverse_bits(bits)
    x = x ^ (x * jnp.uint32(0x3D20ADEA))
    x = x + seed
    x = x * ((seed >> 16) | jnp.uint32(1))
    x = x ^ (x * jnp.uint32(0x05526C56))
    x = x ^ (x * jnp.uint32(0x53A22864))
    return _reverse_bits(x)


def _reverse_bits(x: Array) -> Array:
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = ((x >> shift) & jnp.uint32(mask)) | ((x & jnp.uint32(mask)) << shift)
    return (x >> 16) | (x << 16)
