"""Antithetic pairs (Wu, Goodman & Ermon 2019, arXiv:1810.02555): the noise eps, and its mirror image -eps."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.tools import integrand, stateless


def reparam_antithetic(num_samples: int = 2) -> Estimator:
    """The pathwise gradient with samples in mirrored pairs.

    It is exact for the part of f that is odd about the mean. For the even part it is worse than independent samples
    (the gradient in the scale of a centred quadratic, say). It is for the mean alone: the K samples of an
    importance-weighted bound are independent, so mirrored samples would estimate another bound.
    """
    if num_samples % 2:
        raise ValueError(f"antithetic samples come in pairs: num_samples must be even, got {num_samples}")

    def estimate(key, q, f, reduce, log_q_weight):
        eps = q.noise(key, (num_samples // 2, *q.mean.shape), q.mean.dtype)
        z = q.from_noise(jnp.concatenate([eps, -eps]))  # [K, *batch, D]
        return reduce(integrand(f, q, log_q_weight)(z))

    return stateless(estimate)
