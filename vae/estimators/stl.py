"""Sticking the landing (Roeder, Wu & Duvenaud 2017, arXiv:1703.09194): the pathwise gradient without the score."""

from vae.estimators.contract import Estimator
from vae.estimators.tools import pathwise_values, rsample_and_density, stateless


def stl(num_samples: int = 1) -> Estimator:
    """The pathwise gradient with the density of q frozen. This leaves out the score term, whose expectation is zero.
    Where q is the exact posterior, the gradient has no variance.

    `stop_gradient(q)` freezes the arrays that q holds. A posterior of several stochastic layers holds the weights of
    its conditionals, so the path from layer to layer stays open. A flow holds its weights too, and passes the score of
    its noise on along the path, without an inverse (Vaitl et al. 2022, arXiv:2207.08219). Only the mean is supported:
    for an importance-weighted bound the score term does not vanish, and DReG is needed.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z, density = rsample_and_density(q, key, num_samples)  # [K, *batch, D]
        return reduce(pathwise_values(f, q, log_q_weight, z, density(z)))

    return stateless(estimate)
