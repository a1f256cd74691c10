"""Randomized quasi-Monte Carlo (Buchholz, Wenzel & Mandt 2018, arXiv:1807.01604): noise that fills the space evenly."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from vae.estimators.contract import Estimator
from vae.estimators.tools import integrand, stateless


def reparam_rqmc(num_samples: int = 1) -> Estimator:
    """Pathwise gradient with Sobol' points in place of independent noise, scrambled afresh for every datum and call.

    Each point alone is uniform, which makes the mean unbiased; together they cancel errors. Up to 21201 dimensions.
    """
    if num_samples & (num_samples - 1):
        raise ValueError(f"Sobol' points come in powers of 2: num_samples must be one, got {num_samples}")

    def estimate(key, q, f, reduce, log_q_weight):
        eps = _scrambled_normal(key, num_samples, q.mean.shape)  # [K, *batch, D]
        z = q.from_noise(eps.astype(q.mean.dtype))
        return reduce(integrand(f, q, log_q_weight)(z))

    return stateless(estimate)


def _scrambled_normal(key: Array, num_samples: int, shape: tuple[int, ...]) -> Array:
    """Standard normal `[K, *shape]` of one Sobol' sequence over the last axis, scrambled for each leading index."""
    from scipy.stats import qmc  # slow to import

    points = qmc.Sobol(shape[-1], scramble=False, bits=32).random(num_samples)  # [K, D] in [0, 1)
    bits = jnp.asarray((points * 2**32).astype(np.uint64).astype(np.uint32))
    bits = bits.reshape(num_samples, *[1] * (len(shape) - 1), shape[-1])
    key_scramble, key_shift = jax.random.split(key)
    bits = _owen_scramble(bits, jax.random.bits(key_scramble, shape, jnp.uint32))
    # The random shift makes each point exactly uniform, whatever the quality of the hash.
    bits = bits ^ jax.random.bits(key_shift, shape, jnp.uint32)
    return _normal(bits)


def _normal(bits: Array) -> Array:
    """Standard normal numbers of 32 random bits each, by the middles of 2^23 cells of [0, 1]: of 2^24, the last middle
    would round to 1, whose quantile is infinite."""
    return ndtri(((bits >> 9).astype(jnp.float32) + 0.5) / 2**23)


def _owen_scramble(bits: Array, seed: Array) -> Array:
    """Nested uniform scrambling by a hash of the higher bits (Burley 2020, "Practical Hash-based Owen Scrambling")."""
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
