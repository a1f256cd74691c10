"""Antithetic pairs (Wu, Goodman & Ermon 2019, arXiv:1810.02555): the noise eps, and its mirror image -eps."""

import jax
import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.tools import pathwise_values, stateless


def reparam_antithetic(num_samples: int = 2) -> Estimator:
    """The pathwise gradient with samples in mirrored pairs.

    If f is quadratic, the gradient in the mean has no variance. If f is even about the mean, a mirrored sample adds
    nothing new, so the variance of the gradient in the scale is larger than with K independent samples. Only the mean
    is supported: the K samples of an importance-weighted bound are independent, so mirrored samples would estimate
    another bound.

    Raises:
      ValueError: if num_samples is odd.
    """
    if num_samples % 2:
        raise ValueError(f"antithetic samples come in pairs: num_samples={num_samples} must be even")

    def estimate(key, q, f, reduce, log_q_weight):
        eps = q.noise(key, (num_samples // 2, *q.noise_shape), jax.tree.leaves(q)[0].dtype)
        z, log_q = q.from_noise_and_log_prob(jnp.concatenate([eps, -eps]))  # [K, *batch, D], [K, *batch]
        return reduce(pathwise_values(f, q, log_q_weight, z, log_q))

    return stateless(estimate)
