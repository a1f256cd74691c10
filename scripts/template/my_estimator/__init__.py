"""Adds this package's estimators, posteriors and objectives to the library's tables.

The flag --import=my_estimator makes any command import this package.
"""

from vae import estimators, models, objectives

from my_estimator.estimator import my_estimator as my_estimator
from my_estimator.objective import capacity
from my_estimator.posterior import FlooredNormalPosterior

# What each estimator claims. The tests take names, families, bounds and numbers of samples from here. Fields with the
# usual value are omitted; vae/estimators/entry.py explains all fields.
ESTIMATORS = {
    "my_estimator": estimators.Entry(
        my_estimator,
        latents=("Normal", "Bernoulli"),
        reductions=("mean", "log_mean_exp"),
        paper="You (2027), arXiv:0000.00000",
    ),
}
POSTERIORS = {"floored_normal": FlooredNormalPosterior}
OBJECTIVES = {"capacity": capacity}

for name, entry in ESTIMATORS.items():
    estimators.add(name, entry)
for name, entry in POSTERIORS.items():
    models.add_posterior(name, entry)
for name, entry in OBJECTIVES.items():
    objectives.add(name, entry)
