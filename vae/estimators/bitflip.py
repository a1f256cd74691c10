"""Bitflip-1 (Kunes et al. 2022, arXiv:2208.06124): local expectation for one randomly chosen bit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions import Bernoulli
from vae.estimators.contract import Estimator
from vae.estimators.parts.one_dimension import expected_score, other_values
from vae.estimators.tools import held, inject, integrand, stateless


def bitflip(num_samples: int = 1, proportional: bool = False) -> Estimator:
    """For each sample, one randomly chosen bit stands for all D bits. f is evaluated twice for each sample.

    Args:
      num_samples: K.
      proportional: whether a bit is chosen in proportion to its weight p (1 - p), as in pruned stochastic triples (Arya
        et al. 2022, arXiv:2210.08572). Otherwise all bits are equally probable.
    """
    choose = _in_proportion if proportional else _uniformly

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        key_z, key_bit = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D]
        values = f(z)  # [K, *batch]
        others, probability = other_values(q, z)
        bit, times = choose(key_bit, q, values.shape)
        difference = f(jnp.where(bit == 1, others[0], z)) - values
        grad = expected_score(q, others, probability * times * bit * difference[..., None])
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)


def _uniformly(key: PRNGKeyArray, q: Bernoulli, shape: tuple[int, ...]) -> tuple[Float[Array, "K *batch D"], int]:
    """A one-hot vector of the chosen bit, and one over the probability of this choice."""
    width = q.logits.shape[-1]
    return jax.nn.one_hot(jax.random.randint(key, shape, 0, width), width, dtype=q.logits.dtype), width


def _in_proportion(
    key: PRNGKeyArray, q: Bernoulli, shape: tuple[int, ...]
) -> tuple[Float[Array, "K *batch D"], Float[Array, "*batch D"]]:
    """As `_uniformly`, in proportion to the weights. Weights below 1e-30 count as 1e-30, so that no choice is 0 / 0."""
    log_weight = jnp.maximum(jax.nn.log_sigmoid(q.logits) + jax.nn.log_sigmoid(-q.logits), np.log(1e-30))
    index = jax.random.categorical(key, log_weight, shape=shape)
    bit = jax.nn.one_hot(index, q.logits.shape[-1], dtype=q.logits.dtype)
    return bit, 1 / jax.nn.softmax(log_weight, axis=-1)
