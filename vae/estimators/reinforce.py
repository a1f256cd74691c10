"""REINFORCE (Williams 1992; Ranganath, Gerrish & Blei 2014, arXiv:1401.0118): the score function without a control."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.score_function import weigh_scores
from vae.estimators.tools import held, integrand, stateless


def reinforce(num_samples: int = 1) -> Estimator:
    """For the mean, the score of each sample is multiplied by the value of that sample.

    For every other bound, the score of each sample is multiplied by the whole bound.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        bound = reduce(values)
        signal = values / num_samples if reduce.additive else jnp.broadcast_to(bound, values.shape)
        return weigh_scores(q, z, bound, signal)

    return stateless(estimate)
