"""The posterior and the objective."""

import jax
import numpy as np
import vae

import my_estimator  # noqa: F401  (adds to the tables)


def test_the_posterior_is_normal_with_a_least_scale():
    posterior = vae.models.POSTERIORS.make("floored_normal", least_scale=0.5)
    q = posterior.distribution(np.float32([[3.0, -3.0, -60.0, 2.0]]), latent_dim=2)
    np.testing.assert_allclose(q.mean, [[3, -3]])
    np.testing.assert_allclose(q.scale, [[0.5, np.sqrt(np.exp(2) + 0.25)]], rtol=1e-6)


def test_the_objective_without_capacity_is_the_elbo_and_loses_the_distance_to_its_capacity():
    x = np.float32(np.random.default_rng(0).random((3, 4, 4, 1)) > 0.5)
    model = vae.make_vae((4, 4, 1), latent_dim=2, hidden=5, posterior="floored_normal")
    params = model.init(jax.random.key(0), x, jax.random.key(0))
    expect = vae.bind(vae.estimators.make("reparam"), {}, {}, jax.random.key(1))
    bound = lambda name, **options: vae.objectives.make(name, **options)(model.apply, params, x, expect).value
    elbo = bound("elbo_analytic")
    rate = bound("elbo_analytic", beta=0.0) - elbo  # [3], nats
    np.testing.assert_allclose(bound("capacity", nats=0.0), elbo, rtol=1e-5)
    expected = elbo + rate - 2 * np.abs(rate - 0.1)
    np.testing.assert_allclose(bound("capacity", nats=0.1, weight=2.0), expected, rtol=1e-5)
