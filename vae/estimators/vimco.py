"""VIMCO (Mnih & Rezende 2016, arXiv:1602.06725): leave-one-out for bounds of several samples."""

from vae.estimators.contract import Estimator
from vae.estimators.leave_one_out import leave_one_out


def vimco(num_samples: int = 2) -> Estimator:
    """Each log-weight is replaced in turn by the mean of the others, that is, each weight by their geometric mean. This
    is leave-one-out with `log_mean_exp`, under the name that people look for."""
    return leave_one_out(num_samples)
