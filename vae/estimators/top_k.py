"""Rao-Blackwellized top-k (Liu, Regier, Tripuraneni, Jordan & McAuliffe 2018, arXiv:1810.04777): the k most probable
classes are summed over, and one class speaks for the rest."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.distributions import Categorical
from vae.estimators.base import Estimator, hold_density, inject, stateless
from vae.estimators.local_expectation import changed_one_by_one, expected_score


def rao_blackwell_top_k(num_samples: int = 1, k: int = 1) -> Estimator:
    """One dimension at a time, the others as sampled: local expectation for many classes, by 1 + D k evaluations of f a
    sample in place of 1 + D (C - 1). The sample's own class speaks for the rest; where it is one of the top, another is
    drawn that does."""

    def estimate(key, q, f, reduce):
        f = hold_density(f, reduce)
        key_z, key_rest = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D, C]
        values = f(z, q)  # [K, *batch]
        logits, classes = stop_gradient(q.logits), q.logits.shape[-1]
        if not 1 <= k < classes:
            raise ValueError(f"k must leave a rest of the {classes} classes, got {k}; local_expectation sums over all")
        best = jnp.moveaxis(jax.lax.top_k(logits, k)[1], -1, 0)  # [k, *batch, D]
        top = jax.nn.one_hot(best, classes, dtype=logits.dtype)  # [k, *batch, D, C]
        is_top = jnp.any(top == 1, axis=0)
        top = jnp.broadcast_to(top[:, None], (k, *z.shape))  # [k, K, *batch, D, C]
        drawn = Categorical(jnp.where(is_top, -jnp.inf, logits)).sample(key_rest, num_samples)
        is_z = jnp.any((top == 1) & (z == 1), axis=-1)  # [k, K, *batch, D]; f is known there
        found = changed_one_by_one(f, q, z, jnp.where(is_z[..., None], drawn, top))
        known, z_is_top = values[..., None], jnp.any(is_z, axis=0)
        rest = jnp.where(z_is_top[..., None], drawn, z)
        of_rest = jnp.where(z_is_top, jnp.sum(jnp.where(is_z, found, 0), axis=0), known)
        found = jnp.concatenate([jnp.where(is_z, known, found), of_rest[None]])  # [k+1, K, *batch, D]
        others = jnp.concatenate([top, rest[None]])  # [k+1, K, *batch, D, C]
        share = jnp.sum(jnp.where(is_top, 0, q.mean), axis=-1)
        probability = jnp.sum(others * q.mean, axis=-1).at[-1].set(share)
        # Of the classes, the most probable one alone knows nothing of the one that speaks for the rest.
        grad = expected_score(q, others, probability * (found - found[0]))
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
