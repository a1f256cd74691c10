"""Two stochastic layers: their densities, and the estimators that must freeze their weights and not their outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from tests.helpers.flows import make_flow
from tests.helpers.random_models import parameters
from vae import distributions as dist
from vae import estimators, models, objectives
from vae.estimators import Estimator, log_mean_exp, mean
from vae.hierarchy import Markov

A, W = np.float32([0.4, -0.3]), np.float32([0.7, 0.1])  # z_1: mean, log_var; z_2 | z_1: slope and offset of the mean


def _conditional(weights, z):
    return dist.Normal(weights[0] * jnp.tanh(z) + weights[1], jnp.full_like(z, -1.0))


def _posterior(params):
    first = dist.Normal(params["a"][:1], params["a"][1:])
    return Markov(first, (params["w"],), (_conditional,))


def _log_joint(theta, z):
    z1, z2 = z
    terms = -0.5 * z2**2 - 0.5 * (z1 - theta * z2) ** 2 - 0.5 * (1.3 - jnp.tanh(z1) - z1) ** 2
    return jnp.sum(terms, axis=-1)


PARAMS = {"a": A, "w": W, "theta": np.float32(0.8)}


def _value(params, estimator, reduce, key):
    q = _posterior(params)
    f = lambda z: _log_joint(params["theta"], z)
    return estimator.estimate({}, {}, key, q, f, reduce, log_q_weight=1.0).value


def _moments(estimator, reduce, draws=400_000, chunk=10_000):
    gradient = jax.jit(jax.vmap(lambda key: jax.grad(_value)(PARAMS, estimator, reduce, key)))
    flat = [
        np.concatenate([np.reshape(leaf, (chunk, -1)) for leaf in jax.tree.leaves(gradient(keys))], axis=1)
        for keys in jax.random.split(jax.random.key(0), (draws // chunk, chunk))
    ]
    flat = np.concatenate(flat).astype(np.float64)
    return flat.mean(0), flat.std(0) / np.sqrt(draws)


@dist.family
class _WithFrozenOutputs(Markov):
    """The mistake: stop_gradient freezes the outputs of the conditional, which cuts the path from z_1 into log q(z)."""

    def log_prob(self, z):
        first, second = z
        return self.first.log_prob(first) + stop_gradient(_conditional(self.weights[0], first)).log_prob(second)


def _dreg_with_frozen_outputs(num_samples):
    dreg = estimators.dreg(num_samples=num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        frozen = _WithFrozenOutputs(q.first, q.weights, q.conditionals)
        return dreg.estimate(params, state, key, frozen, f, reduce, log_q_weight, context)

    return Estimator(dreg.init, estimate)


def test_sticking_the_landing_is_unbiased_for_two_layers():
    ours, error = _moments(estimators.stl(num_samples=2), mean)
    plain, plain_error = _moments(estimators.reparam(num_samples=2), mean)
    assert np.max(np.abs(ours - plain) / np.hypot(error, plain_error)) < 4.5


def test_dreg_is_unbiased_for_two_layers():
    ours, error = _moments(estimators.dreg(num_samples=2), log_mean_exp)
    plain, plain_error = _moments(estimators.reparam(num_samples=2), log_mean_exp)
    assert np.max(np.abs(ours - plain) / np.hypot(error, plain_error)) < 4.5
    assert np.linalg.norm(np.hypot(error, plain_error)) < 0.01 * np.linalg.norm(plain)
    wrong, wrong_error = _moments(_dreg_with_frozen_outputs(2), log_mean_exp)
    assert np.max(np.abs(wrong - plain) / np.hypot(wrong_error, plain_error)) > 4.5


def test_sample_and_log_prob_agree_with_the_layers():
    @jax.jit
    def program(params):
        q = _posterior(params)
        downwards = dataclasses.replace(q, descending=True)
        z1, z2 = q.sample(jax.random.key(1), 5)
        densities = q.first.log_prob(z1) + _conditional(W, z1).log_prob(z2), q.log_prob((z1, z2))
        return *densities, downwards.log_prob((z2, z1)), downwards.sample(jax.random.key(1), 5)

    expected, upwards, downwards, sample = program(PARAMS)
    np.testing.assert_allclose(upwards, expected, rtol=1e-6)
    np.testing.assert_allclose(downwards, expected, rtol=1e-6)
    assert [leaf.shape for leaf in sample] == [(5, 1), (5, 1)]


def test_layers_without_rsample_are_refused_by_pathwise_estimators():
    q = Markov(dist.Bernoulli(jnp.zeros((2, 3))), (), ())
    assert not hasattr(q, "rsample")
    estimator = estimators.reparam()
    with pytest.raises(ValueError, match="leave_one_out"):
        estimator.estimate({}, {}, jax.random.key(0), q, lambda z: jnp.sum(z[0], axis=-1))


def test_layers_have_a_path_only_if_every_layer_has():
    normal = dist.Normal(np.float32([[0.1]]), np.float32([[0.0]]))
    q = Markov(normal, (np.float32(1.0),), (lambda weight, z: dist.Bernoulli(z * weight),))
    for method in ("rsample", "rsample_and_log_prob", "with_path"):
        assert not hasattr(q, method)
        assert hasattr(_posterior(PARAMS), method)
    for name in ("reparam", "stl", "auto"):
        with pytest.raises(ValueError, match=f"{name} cannot estimate gradients with Markov latents"):
            estimators.make(name).init(jax.random.key(0), q)
    assert estimators.BY_NAME["leave_one_out"].refusal(q) is None


def test_layers_have_a_density_only_if_every_layer_has():
    planar = make_flow("planar", dim=1)
    first = dist.Normal(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32))
    q = Markov(first, (planar,), (lambda flow, z: dataclasses.replace(flow, location=flow.location + z),))
    assert not q.has_density
    assert "needs log q(z) of a given z" in estimators.BY_NAME["leave_one_out"].refusal(q)
    assert estimators.BY_NAME["reparam"].refusal(q) is None
    assert _posterior(PARAMS).has_density


def test_a_mistake_in_a_layer_is_not_taken_for_a_missing_method():
    q = Markov(dist.Normal(jnp.zeros((2, 3)), 0.0), (np.float32(1.0),), (lambda weight, z: z.no_such_name,))
    with pytest.raises(TypeError, match="layer 2 of a Markov distribution failed: .* no_such_name"):
        hasattr(q, "rsample")


def test_a_network_of_two_layers_trains_every_weight():
    model = models.make_vae((4, 4, 1), latent_dim=(3, 2), hidden=(8,), layer_hidden=(5,))
    key, x = jax.random.key(0), np.ones((6, 4, 4, 1), np.float32)
    params = parameters(model, x)

    def loss(params):
        q = model.apply(params, x, method="encode")
        z = q.rsample(key, 7)
        assert [leaf.shape for leaf in z] == [(7, 6, 3), (7, 6, 2)]
        return jnp.mean(objectives.log_joint(model.apply, params, x)(z) - q.log_prob(z))

    norms = jax.tree.map(np.linalg.norm, jax.device_get(jax.jit(jax.grad(loss))(params)))
    assert all(0 < norm < np.inf for norm in jax.tree.leaves(norms)), norms
