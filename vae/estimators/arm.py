"""Coupled pairs: z and its partner both follow q but oppose each other, and what f changes between them is the signal.

One formula: d/d logits E[h(z)] = E[(h(z) - h(partner)) weight], where h is the reduced f as a function of one sample
among the others. The estimators differ in the pair and its weight.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from vae import distributions
from vae.estimators.base import Estimator, hold_density, inject, mean, stateless
from vae.estimators.score_function import learning_signal


def arm(num_samples: int = 2) -> Estimator:
    """ARM (Yin & Zhou 2018, arXiv:1807.11143): z from u, its partner from 1 - u, and the weight is 1/2 - u."""

    def couple(key, q, n):
        u, z, partner = _antithetic(key, q, n)
        return z, partner, 0.5 - u

    return coupled_pairs(couple, num_samples)


def disarm(num_samples: int = 2) -> Estimator:
    """DisARM (Dong, Mnih & Tucker 2020, arXiv:2006.10680) = U2G (Yin et al. 2020): ARM with its weight averaged over
    all u that give the same pair. On the importance-weighted bound it is local DisARM."""

    def couple(key, q, n):
        _, z, partner = _antithetic(key, q, n)
        return z, partner, 0.5 * jax.nn.sigmoid(jnp.abs(q.logits)) * (z - partner)

    return coupled_pairs(couple, num_samples)


def coupled_pairs(couple: Callable, num_samples: int) -> Estimator:
    """The estimator of a coupling, `couple(key, q, n) -> z, partner, weight`, each `[n, *batch, *event]`.

    For the mean, num_samples counts evaluations of f: num_samples / 2 pairs. Every other bound is that of
    K = num_samples independent samples, and their K partners are evaluated besides: 2 K evaluations.
    """

    def estimate(key, q, f, reduce):
        f = hold_density(f, reduce)
        if reduce is mean:
            if num_samples % 2:
                raise ValueError(f"coupled samples come in pairs: num_samples must be even, got {num_samples}")
            z, partner, weight = couple(key, q, num_samples // 2)
            z, weight = jnp.concatenate([z, partner]), jnp.concatenate([weight, -weight])
            values = f(z, q)  # [K, *batch]
            opposite = jnp.roll(values, num_samples // 2, axis=0)
        else:
            z, partner, weight = couple(key, q, num_samples)
            values, opposite = f(z, q), f(partner, q)
        signal = learning_signal(values, opposite, reduce)  # [K, *batch]
        signal = signal.reshape(signal.shape + (1,) * (weight.ndim - signal.ndim))
        return reduce(values) + inject(q.logits, jnp.sum(signal * weight, axis=0), len(q.batch_shape))

    return stateless(estimate)


def _antithetic(key: Array, q, n: int) -> tuple[Array, Array, Array]:
    u = distributions.uniform(key, (n, *q.logits.shape), q.logits.dtype)
    return u, q.threshold(u), q.threshold(1 - u)
