"""Adds the estimator to the library's table. The flag --import=my_estimator makes any command import this package."""

from vae import estimators

from my_estimator.estimator import my_estimator as my_estimator

estimators.add(
    "my_estimator",
    estimators.Entry(
        my_estimator,
        latents=("Normal", "Bernoulli"),
        reductions=("mean", "log_mean_exp"),
        paper="You (2027), arXiv:0000.00000",
    ),
)
