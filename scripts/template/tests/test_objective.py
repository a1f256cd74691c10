"""The objective against what it should be. Delete or replace this file with my_estimator/objective.py."""

import jax
import numpy as np
import vae

from my_estimator.objective import capacity


def test_the_objective_without_capacity_is_the_elbo_and_loses_the_distance_to_its_capacity():
    x = np.float32(np.random.default_rng(0).random((3, 4, 4, 1)) > 0.5)
    model = vae.make_vae((4, 4, 1), latent_dim=2, hidden=5)
    params = model.init(jax.random.key(0), x, jax.random.key(0))
    expect = vae.bind(vae.estimators.make("reparam"), {}, {}, jax.random.key(1))
    bound = lambda objective: objective(model.apply, params, x, expect).value
    elbo = bound(vae.objectives.make("elbo_analytic"))
    rate = bound(vae.objectives.make("elbo_analytic", beta=0.0)) - elbo  # [3], nats
    np.testing.assert_allclose(bound(capacity(nats=0.0)), elbo, rtol=1e-5)
    expected = elbo + rate - 2 * np.abs(rate - 0.1)
    np.testing.assert_allclose(bound(capacity(nats=0.1, weight=2.0)), expected, rtol=1e-5)
