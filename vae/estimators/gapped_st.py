"""Gapped straight-through (Fan et al. 2022, arXiv:2206.07235): the effect of Gumbel noise on the logits, without it."""

import jax
import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.tools import attach, check_positive, held, integrand, stateless


def gapped_st(num_samples: int = 1, temperature: float = 0.5, gap: float = 1.0) -> Estimator:
    """The backward pass uses the derivative of softmax(x / temperature), where x are logits that agree with the sample.

    In x, the logit of the sampled class is the largest logit of all, and the other logits are at least `gap` below it.
    Compared with straight-through Gumbel-softmax, no noise is left, given the sample.
    """
    check_positive(temperature=temperature, gap=gap)

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        largest = jnp.max(q.logits, axis=-1, keepdims=True)
        x = jnp.where(hard == 1, largest, jnp.minimum(q.logits, largest - gap))
        x = attach(x, jnp.broadcast_to(q.logits, x.shape))  # the move of the logits is a constant
        z = attach(hard, jax.nn.softmax(x / temperature))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
