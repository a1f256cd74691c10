"""The straight-through estimator (Bengio, Leonard & Courville 2013, arXiv:1308.3432)."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.tools import attach, held, integrand, stateless


def straight_through(num_samples: int = 1) -> Estimator:
    """The forward pass uses the hard sample; the backward pass uses the derivative of the mean of q in its place. The
    expected gradient is exact if f is linear in each latent variable, given the others."""

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        z = attach(hard, jnp.broadcast_to(q.mean, hard.shape))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
