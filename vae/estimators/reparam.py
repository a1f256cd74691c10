"""The reparameterization trick (Kingma & Welling 2013, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014,
arXiv:1401.4082): z is a differentiable function of the parameters of q and of noise."""

from vae.estimators.contract import Estimator
from vae.estimators.tools import pathwise_values, rsample_and_log_prob, stateless


def reparam(num_samples: int = 1) -> Estimator:
    """The pathwise gradient, which is unbiased for every reduction. Gamma, Beta, Dirichlet and Student t samples have
    implicit derivatives (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498)."""

    def estimate(key, q, f, reduce, log_q_weight):
        z, log_q = rsample_and_log_prob(q, key, num_samples)  # [K, *batch, D], [K, *batch]
        return reduce(pathwise_values(f, q, log_q_weight, z, log_q))

    return stateless(estimate)
