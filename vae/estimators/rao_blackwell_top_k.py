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
    rest to represent them.

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
        is_top = jnp.any(top == 1, axis=0)
        top = jnp.broadcast_to(top[:, None], (k, *z.shape))  # [k, K, *batch, D, C]
        drawn = Categorical(jnp.where(is_top, -jnp.inf, logits)).sample(key_rest, num_samples)
        # Where a top class is the sampled class, f is known already. f is evaluated at the class from the rest instead.
        is_z = jnp.any((top == 1) & (z == 1), axis=-1)  # [k, K, *batch, D]
        evaluated = changed_one_by_one(f, q, z, jnp.where(is_z[..., None], drawn, top))
        known = values[..., None]
        z_is_top = jnp.any(is_z, axis=0)
        rest = jnp.where(z_is_top[..., None], drawn, z)
        at_rest = jnp.where(z_is_top, jnp.sum(jnp.where(is_z, evaluated, 0), axis=0), known)
        outcomes = jnp.concatenate([jnp.where(is_z, known, evaluated), at_rest[None]])  # [k+1, K, *batch, D]
        chosen = jnp.concatenate([top, rest[None]])  # [k+1, K, *batch, D, C]
        share = jnp.sum(jnp.where(is_top, 0, q.mean), axis=-1)  # the probability of the rest, [*batch, D]
        probability = jnp.sum(chosen * q.mean, axis=-1).at[-1].set(share)
        # The scores sum to zero, so f at the most probable class may be subtracted from every outcome.
        grad = expected_score(q, chosen, probability * (outcomes - outcomes[0]))
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
