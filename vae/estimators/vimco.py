"""VIMCO (Mnih & Rezende 2016, arXiv:1602.06725): leave-one-out for bounds of several samples."""

from vae.estimators.contract import Estimator
from vae.estimators.leave_one_out import leave_one_out


def vimco(num_samples: int = 2) -> Estimator:
    """The control of each log-weight is the mean of the other log-weights, so each weight is replaced by the geometric
    mean of the others. VIMCO is leave-one-out with `log_mean_exp`; this file gives it its published name."""
    return leave_one_out(num_samples)
