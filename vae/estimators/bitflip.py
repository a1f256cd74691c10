"""Bitflip-1 (Kunes et al. 2022, arXiv:2208.06124): local expectation for one randomly chosen bit."""

import jax
import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_dimension import expected_score, other_values
from vae.estimators.tools import held, inject, integrand, stateless


def bitflip(num_samples: int = 1) -> Estimator:
    """For each sample, one uniformly chosen bit stands for all D bits, so its term is multiplied by D. f is evaluated
    twice for each sample."""

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        key_z, key_bit = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D]
        values = f(z)  # [K, *batch]
        others, probability = other_values(q, z)
        width = z.shape[-1]
        bit = jax.nn.one_hot(jax.random.randint(key_bit, values.shape, 0, width), width, dtype=z.dtype)
        difference = f(jnp.where(bit == 1, others[0], z)) - values
        grad = expected_score(q, others, probability * width * bit * difference[..., None])
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
