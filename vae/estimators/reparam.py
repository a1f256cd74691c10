"""The reparameterization trick (Kingma & Welling 2013, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014,
arXiv:1401.4082): z is a deterministic function of the parameters and of noise, and autodiff does the rest."""

from vae.estimators.contract import Estimator
from vae.estimators.tools import integrand, stateless


def reparam(num_samples: int = 1) -> Estimator:
    """The pathwise gradient, unbiased for every reduction. For Gamma, Beta, Dirichlet and Student t the path is
    implicit (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498)."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)  # [K, *batch, D]
        return reduce(integrand(f, q, log_q_weight)(z))

    return stateless(estimate)
