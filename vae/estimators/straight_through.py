"""Straight-through estimators: hard samples forward; backward f'(z) times an approximation to dz/dlogits."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimator, attach, check_positive
from vae.estimators.one_hot import along


def straight_through(num_samples: int = 1) -> Estimator:
    """dz taken for d mean, the identity to the probabilities (Bengio, Leonard & Courville 2013, arXiv:1308.3432): exact
    where f is linear in each latent variable, given the others."""

    def path(key, q):
        z = q.sample(key, num_samples)
        return attach(z, jnp.broadcast_to(q.mean, z.shape))

    return along(path)


def reinmax(num_samples: int = 1, temperature: float = 1.0) -> Estimator:
    """ReinMax (Liu, Dong, Liu, Yu & Gao 2023, arXiv:2304.08612): Heun's method, dz taken for 2 J(halfway) - J(mean) / 2
    with softmax's Jacobian J. Exact where f is quadratic in each latent variable, at temperature 1 alone."""
    check_positive(temperature=temperature)

    def path(key, q):
        z = q.sample(key, num_samples)
        halfway = stop_gradient(jax.nn.softmax(q.logits / temperature) + z) / 2  # [K, *batch, D, C]
        centred = q.logits - jnp.sum(halfway * q.logits, axis=-1, keepdims=True)
        return attach(z, 2 * halfway * centred - q.mean / 2)

    return along(path)
