"""The posterior and its family against what they should be. Delete or replace this file with my_estimator/posterior.py.

`certify_distribution` compares samples, density, mean and divergence of any family with each other.
"""

import numpy as np
import vae

from my_estimator.posterior import FlooredNormal, FlooredNormalPosterior


def test_samples_density_and_divergence_of_the_family_agree():
    parameters = {"mean": np.float32([[0.3, -0.5]]), "log_var": np.float32([[0.2, -3.0]])}
    make = lambda parameters: FlooredNormal(**parameters, least_scale=0.5)
    prior = vae.distributions.Normal(np.zeros(2, np.float32), np.zeros(2, np.float32))
    certified = vae.testing.certify_distribution(make, parameters, prior=prior)
    assert certified, certified


def test_the_posterior_has_a_least_scale():
    posterior = FlooredNormalPosterior(least_scale=0.5)
    q = posterior.distribution(np.float32([[3.0, -3.0, -60.0, 2.0]]), latent_dim=2)
    np.testing.assert_allclose(q.mean, [[3, -3]])
    np.testing.assert_allclose(q.scale, [[0.5, np.sqrt(np.exp(2) + 0.25)]], rtol=1e-6)
