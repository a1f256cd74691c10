"""Rao-Blackwellized top-k (Liu, Regier, Tripuraneni, Jordan & McAuliffe 2018, arXiv:1810.04777): the k most probable
classes are summed over, and one sampled class represents the rest."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.distributions import Categorical
from vae.estimators.contract import Estimator
from vae.estimators.parts.one_dimension import changed_one_by_one, expected_score
from vae.estimators.tools import held, inject, integrand, stateless


def rao_blackwell_top_k(num_samples: int = 1, k: int = 1) -> Estimator:
    """Local expectation for many classes: the sum over the classes of one dimension at a time is cut short.

    f is evaluated 1 + D k times for each sample, where local expectation needs 1 + D (C - 1). The sampled class
    represents the classes outside the top k. If the sampled class is one of the top k, another class is drawn from the
    rest to represent them. Unlike the paper's estimator, this one subtracts f at the most probable class from every
    outcome, so a constant in f adds no variance.

    Raises:
      ValueError: from `estimate`, if k is not between 1 and C - 1.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        key_z, key_rest = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D, C]
        values = f(z)  # [K, *batch]
        logits = stop_gradient(q.logits)
        classes = logits.shape[-1]
        if not 1 <= k < classes:
            raise ValueError(
                f"k must be from 1 to {classes - 1} with {classes} classes, got {k}; local_expectation sums over all"
            )
        best = jnp.moveaxis(jax.lax.top_k(logits, k)[1], -1, 0)  # [k, *batch, D]
        top = jax.nn.one_hot(best, classes, dtype=logits.dtype)  # [k, *batch, D, C]
        in_top = jnp.any(top == 1, axis=0)  # [*batch, D, C]
        top = jnp.broadcast_to(top[:, None], (k, *z.shape))  # [k, K, *batch, D, C]
        drawn = Categorical(jnp.where(in_top, -jnp.inf, logits)).sample(key_rest, num_samples)  # from the rest
        # The gradient needs f at the k top classes and at one class from the rest. f at one of them is known: it is z.
        # f is evaluated at the other k: at the top classes, but at `drawn` instead of z if z is a top class.
        equals_z = jnp.any((top == 1) & (z == 1), axis=-1)  # [k, K, *batch, D]
        z_in_top = jnp.any(equals_z, axis=0)  # [K, *batch, D]
        evaluated = changed_one_by_one(f, q, z, jnp.where(equals_z[..., None], drawn, top))
        f_z = values[..., None]
        f_drawn = jnp.sum(jnp.where(equals_z, evaluated, 0), axis=0)  # 0 if z is from the rest
        f_top = jnp.where(equals_z, f_z, evaluated)
        f_rest = jnp.where(z_in_top, f_drawn, f_z)
        rest = jnp.where(z_in_top[..., None], drawn, z)
        outcomes = jnp.concatenate([f_top, f_rest[None]])  # [k+1, K, *batch, D]
        chosen = jnp.concatenate([top, rest[None]])  # [k+1, K, *batch, D, C]
        share_of_rest = jnp.sum(jnp.where(in_top, 0, q.mean), axis=-1)  # [*batch, D]
        probability = jnp.sum(chosen * q.mean, axis=-1).at[-1].set(share_of_rest)
        # The weighted scores have mean zero, so f at the most probable class may be subtracted from every outcome.
        grad = expected_score(q, chosen, probability * (outcomes - outcomes[0]))
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
