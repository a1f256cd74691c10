"""ARM (Yin & Zhou 2018, arXiv:1807.11143): augment-REINFORCE-merge."""

from vae.estimators.contract import Estimator
from vae.estimators.parts.coupled_pairs import antithetic_bits, coupled_pairs


def arm(num_samples: int = 2) -> Estimator:
    """The uniform number u gives the sample z, and 1 - u gives its partner. The weight is 1/2 - u.

    For the mean, `num_samples` must be even; see `coupled_pairs`.
    """

    def couple(key, q, n):
        u, z, partner = antithetic_bits(key, q, n)
        return z, partner, 0.5 - u

    return coupled_pairs(couple, num_samples)
