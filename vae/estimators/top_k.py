"""Rao-Blackwellized top-k (Liu, Regier, Tripuraneni, Jordan & McAuliffe 2018, arXiv:1810.04777): the k most probable
classes are summed over, and one class speaks for the rest."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.distributions import Categorical
from vae.estimators.base import Estimator, inject, stateless
from vae.estimators.local_expectation import changed_one_by_one, expected_score


def rao_blackwell_top_k(num_samples: int = 1, k: int = 1) -> Estimator:
    """One dimension at a time, the others as sampled: local expectation for many classes, by 1 + D (k + 1) evaluations
    of f a sample in place of 1 + D (C - 1)."""

    def estimate(key, q, f, reduce):
        key_z, key_rest = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D, C]
        values = f(z, q)  # [K, *batch]
        logits, classes = stop_gradient(q.logits), q.logits.shape[-1]
        if not 1 <= k < classes:
            raise ValueError(f"k must leave a rest of the {classes} classes, got {k}; local_expectation sums over all")
        best = jnp.moveaxis(jax.lax.top_k(logits, k)[1], -1, 0)  # [k, *batch, D]
        top = jax.nn.one_hot(best, classes, dtype=logits.dtype)  # [k, *batch, D, C]
        is_top = jnp.any(top == 1, axis=0)
        rest = Categorical(jnp.where(is_top, -jnp.inf, logits)).sample(key_rest, num_samples)
        others = jnp.concatenate([jnp.broadcast_to(top[:, None], (k, *z.shape)), rest[None]])  # [k+1, K, *batch, D, C]
        of_top = jnp.sum(top * q.mean, axis=-1)  # [k, *batch, D]
        of_rest = jnp.sum(jnp.where(is_top, 0, q.mean), axis=-1)
        probability = jnp.concatenate([of_top, of_rest[None]])[:, None]  # [k+1, 1, *batch, D]
        # f(z) does not know the class that speaks for the rest, so it may be subtracted.
        differences = changed_one_by_one(f, q, z, others) - values[..., None]
        grad = expected_score(q, others, probability * differences)
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
