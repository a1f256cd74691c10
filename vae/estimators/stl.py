"""Sticking the landing (Roeder, Wu & Duvenaud 2017, arXiv:1703.09194): the pathwise gradient without the score."""

from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.tools import first_derivative_only, integrand, stateless


def stl(num_samples: int = 1) -> Estimator:
    """The pathwise gradient with the density of q frozen. This leaves out the score term, whose expectation is zero.
    Where q is the exact posterior, the gradient has no variance.

    `stop_gradient(q)` freezes the arrays that q holds. A posterior of several stochastic layers holds the weights of
    its conditionals, so the path from layer to layer stays open. Only the mean is supported: for an importance-weighted
    bound the score term does not vanish, and DReG is needed.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)  # [K, *batch, D]
        return first_derivative_only(reduce(integrand(f, stop_gradient(q), log_q_weight)(z)))

    return stateless(estimate)
