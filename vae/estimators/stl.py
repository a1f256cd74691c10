"""Sticking the landing (Roeder, Wu & Duvenaud 2017, arXiv:1703.09194)."""

from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import integrand, stateless


def stl(num_samples: int = 1) -> Estimator:
    """The pathwise gradient with the density of q frozen, so that the score, whose mean is zero, is left out. Where q
    is the exact posterior the gradient has no variance.

    `stop_gradient(q)` freezes what q is made of, not what q computes. A posterior of several stochastic layers holds
    the weights of its conditionals, and is therefore treated rightly. It is for the mean alone: an importance-weighted
    bound needs DReG.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)  # [K, *batch, D]
        return reduce(integrand(f, stop_gradient(q), log_q_weight)(z))

    return stateless(estimate)
