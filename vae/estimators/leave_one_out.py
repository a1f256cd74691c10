"""Leave-one-out (Salimans & Knowles 2014, arXiv:1401.1022; Kool, van Hoof & Welling 2019), also called RLOO."""

from vae.estimators.contract import Estimator
from vae.estimators.parts.score_function import mean_of_others, score_surrogate
from vae.estimators.tools import held, integrand, stateless


def leave_one_out(num_samples: int = 2) -> Estimator:
    """The score function, where the control of each value is the mean of the values of the other samples.

    With `log_mean_exp`, leave-one-out is VIMCO with the geometric mean (Mnih & Rezende 2016, arXiv:1602.06725).
    """

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        return score_surrogate(q, z, values, mean_of_others(values), reduce)

    return stateless(estimate)
