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


SCALE = np.float32(1.3)  # of each conditional of the linear chain below


def _linear_chain(tree, descending=False):
    """z_1 ~ Normal(mean, 1), z_2 = w_2 z_1 + SCALE e_2 and z_3 = w_3 z_2 + SCALE e_3."""
    conditional = lambda weight, z: dist.Normal(weight * z, jnp.full_like(z, 2 * np.log(SCALE)))
    first = dist.Normal(tree["mean"], np.zeros((2, 1), np.float32))
    return Markov(first, (tree["w2"], tree["w3"]), (conditional, conditional), descending)


LINEAR = {"mean": np.float32([[0.5], [-0.3]]), "w2": np.float32(0.7), "w3": np.float32(-1.1)}
BOTH_ORDERS = pytest.mark.parametrize("descending", [False, True])


def _log_normal(z, mean, scale):
    return np.sum(-0.5 * ((z - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi), axis=-1)


@BOTH_ORDERS
def test_every_layer_has_noise_of_its_own_and_a_density_of_its_own(descending):
    draws = 20_000

    @jax.jit
    def program(key):
        q = _linear_chain(LINEAR, descending)
        z, log_q = q.rsample_and_log_prob(key, draws)
        return z, log_q, q.log_prob_by_layer(z), q.sample(key, draws), q.rsample(key, draws)

    z, log_q, terms, *others = jax.device_get(program(jax.random.key(0)))
    for sample in (z, *others):
        z1, z2, z3 = sample[::-1] if descending else sample
        means = LINEAR["mean"], LINEAR["w2"] * z1, LINEAR["w3"] * z2
        noise = np.stack([z1 - means[0], (z2 - means[1]) / SCALE, (z3 - means[2]) / SCALE]).reshape(3, -1)
        assert np.max(np.abs(noise @ noise.T / noise.shape[1] - np.eye(3))) < 4.5 * np.sqrt(2 / noise.shape[1])
        if sample is z:
            expected = [_log_normal(*each) for each in zip((z1, z2, z3), means, (1, SCALE, SCALE), strict=True)]
    np.testing.assert_allclose(terms, expected[::-1] if descending else expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_q, sum(expected), rtol=1e-4, atol=1e-4)


@BOTH_ORDERS
def test_a_path_along_given_layers_has_the_derivative_of_their_draw(descending):
    chain = lambda tree: _linear_chain(tree, descending)
    drawn = lambda tree: chain(tree).rsample(jax.random.key(0), 4)
    total = lambda z: sum(slope * jnp.sum(layer**2) for slope, layer in zip((1.0, -0.4, 0.3), z, strict=True))

    @jax.jit
    def program(tree):
        z = drawn(tree)
        along = lambda tree: chain(tree).with_path(z)
        return z, along(tree), *(jax.grad(lambda tree, path=path: total(path(tree)))(tree) for path in (drawn, along))

    z, same, of_draw, of_path = jax.device_get(program(LINEAR))
    jax.tree.map(np.testing.assert_array_equal, z, same)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4), of_draw, of_path)


@BOTH_ORDERS
def test_samples_carry_no_gradient_and_go_on_from_the_layers_that_are_given(descending):
    given = np.float32([[[0.4], [2.0]]])

    def samples(tree):
        q = _linear_chain(tree, descending)
        return q.sample(jax.random.key(0), 3), q.continued(jax.random.key(1), (given + tree["mean"],))

    _, continued = jax.jit(samples)(LINEAR)
    np.testing.assert_array_equal(continued[-1 if descending else 0], given + LINEAR["mean"])
    slopes = jax.jit(jax.grad(lambda tree: sum(map(jnp.sum, jax.tree.leaves(samples(tree))))))(LINEAR)
    assert all(np.all(slope == 0) for slope in jax.tree.leaves(slopes))


@BOTH_ORDERS
def test_the_means_of_layers_are_exact_for_the_first_and_without_the_last_noise_for_the_others(descending):
    def means(key, first=None):
        q = _linear_chain(LINEAR, descending)
        q = q if first is None else dataclasses.replace(q, first=first)
        found, z = q.layer_means(key, 50), q.sample(key, 50)
        return (found[::-1], z[::-1]) if descending else (found, z)

    (m1, m2, m3), (z1, z2, _) = jax.device_get(jax.jit(means)(jax.random.key(0)))
    np.testing.assert_array_equal(m1, LINEAR["mean"])
    np.testing.assert_allclose(m2, LINEAR["w2"] * z1.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(m3, LINEAR["w3"] * z2.mean(axis=0), rtol=1e-5)
    first = make_flow("planar", dim=1)  # a family without a mean
    (m1, *_), (z1, *_) = jax.device_get(jax.jit(lambda key: means(key, first))(jax.random.key(0)))
    np.testing.assert_allclose(m1, z1.mean(axis=0), rtol=1e-5)


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
    assert list(estimators.make("auto").init(jax.random.key(0), q)[0]) == ["reparam", "dreg"]
    for name in ("stl", "gdreg"):
        assert "needs log q(z) of a given z" in estimators.BY_NAME[name].refusal(q, mean, log_q_weight=1.0)
        assert estimators.BY_NAME[name].refusal(_posterior(PARAMS), mean, log_q_weight=1.0) is None
    assert _posterior(PARAMS).has_density


def test_a_first_layer_without_parameters_is_asked_for_its_methods():
    """The uniform prior over a sphere."""
    direction = lambda weight, z: dist.PowerSpherical(z, weight * z[..., :1])
    p = Markov(dist.UniformOnSphere(3), (np.float32(1.0),), (direction,))
    assert not hasattr(p, "with_path")
    assert hasattr(p, "log_prob")


def test_layers_with_one_certain_code_have_no_score():
    code = lambda weight, z: dist.Rounded(weight * z[..., None], (3,))
    q = Markov(dist.Normal(jnp.zeros((2, 3)), 0.0), (np.float32(1.0),), (code,))
    assert "codes are certain: there is no score" in estimators.BY_NAME["leave_one_out"].refusal(q)


def test_a_mistake_in_a_layer_is_not_taken_for_a_missing_method():
    q = Markov(dist.Normal(jnp.zeros((2, 3)), 0.0), (np.float32(1.0),), (lambda weight, z: z.no_such_name,))
    with pytest.raises(TypeError, match="layer 2 of a Markov distribution failed: .* no_such_name"):
        hasattr(q, "rsample")


def test_a_network_of_three_layers_trains_every_weight():
    model = models.make_vae((4, 4, 1), latent_dim=(3, 2, 4), hidden=(8,), layer_hidden=(5,))
    key, x = jax.random.key(0), np.ones((6, 4, 4, 1), np.float32)
    params = parameters(model, x)

    def loss(params):
        q = model.apply(params, x, method="encode")
        z = q.rsample(key, 7)
        assert [leaf.shape for leaf in z] == [(7, 6, 3), (7, 6, 2), (7, 6, 4)]
        return jnp.mean(objectives.log_joint(model.apply, params, x)(z) - q.log_prob(z))

    of_image = lambda z: jnp.sum(model.apply(params, x, z, method="log_likelihood"))
    slopes = jax.grad(of_image)(jax.jit(lambda: model.apply(params, x, method="encode").sample(key, 7))())
    assert [bool(jnp.any(slope != 0)) for slope in slopes] == [True, False, False]  # the decoder reads the first layer
    norms = jax.tree.map(np.linalg.norm, jax.device_get(jax.jit(jax.grad(loss))(params)))
    assert all(0 < norm < np.inf for norm in jax.tree.leaves(norms)), norms
