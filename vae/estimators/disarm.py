"""DisARM (Dong, Mnih & Tucker 2020, arXiv:2006.10680), also published as U2G (Yin et al. 2020)."""

import jax
import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.coupled_pairs import antithetic_bits, coupled_pairs


def disarm(num_samples: int = 2) -> Estimator:
    """ARM whose weight is averaged over all u that give the same pair. For the importance-weighted bound, the estimator
    is the paper's local DisARM. For the mean, `num_samples` must be even; see `coupled_pairs`."""

    def couple(key, q, n):
        _, z, partner = antithetic_bits(key, q, n)
        return z, partner, 0.5 * jax.nn.sigmoid(jnp.abs(q.logits)) * (z - partner)

    return coupled_pairs(couple, num_samples)
