"""Antithetic pairs: eps and -eps."""

import jax.numpy as jnp

from vae.estimators.base import Estimator, stateless


def reparam_antithetic(num_samples: int = 2) -> Estimator:
    """Pathwise gradient with samples in mirrored pairs: exact for what is odd about the mean, and worse than
    independent samples for what is even (the scale's gradient of a centred quadratic, say).

    For the mean alone: of an importance-weighted bound, whose K samples are independent, it would estimate another.
    """
    if num_samples % 2:
        raise ValueError(f"antithetic samples come in pairs: num_samples must be even, got {num_samples}")

    def estimate(key, q, f, reduce):
        eps = q.noise(key, (num_samples // 2, *q.mean.shape), q.mean.dtype)
        return reduce(f(q.from_noise(jnp.concatenate([eps, -eps])), q))

    return stateless(estimate)
