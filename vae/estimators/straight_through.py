"""The straight-through estimator (Bengio, Leonard & Courville 2013, arXiv:1308.3432)."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.tools import attach, held, integrand, stateless


def straight_through(num_samples: int = 1) -> Estimator:
    """Forward the hard sample; backward dz is replaced by d mean, the identity to the probabilities. Exact where f is
    linear in each latent variable, given the others."""

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        z = attach(hard, jnp.broadcast_to(q.mean, hard.shape))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
