"""Flows: their densities against numerical Jacobians, inverses and integrals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.flows import BATCH, FLOWS, INVERTIBLE, make_flow
from tests.helpers.random_models import float64
from vae import distributions as dist
from vae.distributions import flows

K, D = 6, 3
KEY = jax.random.key(1)
float64_of = functools.partial(jax.tree.map, float64)


def _in_float64(name):
    """eps, z, log q(z) by the pair and by `log_prob`, and the Jacobians dz/deps `[K, BATCH, D, D]`, in float64."""
    q, eps = make_flow(name, dim=D, layers=3), np.random.default_rng(1).normal(size=(K, BATCH, D))

    @jax.jit
    def program(q, eps):
        columns = jax.vmap(lambda v: jax.jvp(q.from_noise, (eps,), (jnp.broadcast_to(v, eps.shape),))[1])(jnp.eye(D))
        z, log_q = q.from_noise_and_log_prob(eps)
        again = q.log_prob(z) if name in INVERTIBLE else log_q
        return z, log_q, again, jnp.moveaxis(columns, 0, -1)

    with jax.enable_x64(True):
        return eps, *jax.device_get(program(float64_of(q), eps))


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_is_that_of_the_change_of_variables(name):
    eps, _, log_q, again, jacobians = _in_float64(name)
    sign, log_det = np.linalg.slogdet(jacobians)
    assert np.all(sign != 0)
    expected = -0.5 * np.sum(eps**2 + np.log(2 * np.pi), axis=-1) - log_det
    np.testing.assert_allclose(log_q, expected, rtol=1e-12)
    np.testing.assert_allclose(again, expected, rtol=1e-9)
    off_diagonal = jacobians[..., ~np.eye(D, dtype=bool)]
    assert np.abs(off_diagonal).max() > 0.05  # the coordinates depend on each other


def test_the_score_of_a_planar_flow_is_the_derivative_of_its_density():
    """By the chain rule, the derivative of log q(z(eps)) in eps is dz/deps^T times the score."""

    @jax.jit
    def program(q):
        z, density = q.rsample_and_density(KEY, K)
        score = jax.grad(lambda z: jnp.sum(density(z)))(z)
        eps = q.noise(KEY, z.shape, z.dtype)
        (z_again, log_q), pull = jax.vjp(q.from_noise_and_log_prob, eps)
        through_z = pull((score, jnp.zeros_like(log_q)))[0]
        return z, z_again, through_z, pull((jnp.zeros_like(z), jnp.ones_like(log_q)))[0]

    with jax.enable_x64(True):
        z, z_again, through_z, in_noise = program(float64_of(make_flow("planar", dim=D, layers=3, scale=1.5)))
    np.testing.assert_array_equal(z, z_again)
    np.testing.assert_allclose(through_z, in_noise, rtol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_a_sample_in_float32_comes_with_its_density(name):
    q = make_flow(name, dim=D, layers=3)

    @jax.jit
    def program(q):
        z, log_q = q.rsample_and_log_prob(KEY, 1000)
        return z, log_q, q.rsample(KEY, 1000), q.sample(KEY, 1000), q.log_prob(z) if name in INVERTIBLE else log_q

    z, log_q, rsample, sample, again = program(q)
    assert (z.shape, log_q.shape, log_q.dtype) == ((1000, BATCH, D), (1000, BATCH), jnp.float32)
    np.testing.assert_allclose(z, rsample, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rsample, sample)
    # Rounding of z is amplified where T is flat.
    np.testing.assert_allclose(again, log_q, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_density_integrates_to_one(name):
    q = make_flow(name, scale=0.3)
    axis = np.linspace(-15, 15, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    mass = np.sum(np.exp(float64(jax.jit(lambda q: q.log_prob(grid))(q))), axis=0) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(mass, 1, atol=2e-3)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_without_weights_and_context_is_a_normal(name):
    q = make_flow(name, dim=D, scale=0)
    eps = np.random.default_rng(2).normal(size=(K, BATCH, D)).astype(np.float32)

    @jax.jit
    def program(q):
        normal = dist.Normal(q.location, 2 * q.log_scale)
        z, log_q = q.from_noise_and_log_prob(eps)
        return z, log_q, normal.from_noise(eps), normal.log_prob(z)

    z, log_q, expected_z, expected_log_q = program(q)
    np.testing.assert_allclose(z, expected_z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_q, expected_log_q, rtol=1e-5, atol=1e-5)


def test_planar_flows_refuse_the_density_of_a_given_sample_by_name():
    q = make_flow("planar")
    with pytest.raises(
        NotImplementedError, match=r"planar flows .* no closed form; choose an estimator .*reparam.*coupling"
    ):
        q.log_prob(np.zeros((K, BATCH, 2), np.float32))


def test_a_planar_map_is_invertible_however_its_context_looks():
    """In one dimension, x + u tanh(w x + b) must rise; without moving u it would not."""
    x = np.linspace(-3, 3, 601, dtype=np.float32)[:, None]
    u, w = np.float32(-3.0), np.float32(2.0)
    y, _ = jax.jit(flows.Planar(1).apply)({}, x, np.array([u, w, 0.3]))
    assert np.all(np.diff(y[:, 0]) > 0)
    assert np.any(np.diff(x[:, 0] + u * np.tanh(w * x[:, 0] + 0.3)) < 0)


def test_a_planar_map_whose_u_and_w_are_orthogonal_adds_u_over_the_dimension_times_tanh():
    x, u, w, b = np.float32([[0.5, -0.2], [1.5, 0.7]]), np.float32([3, 0]), np.float32([0, 2]), np.float32([0.3])
    y, log_det = jax.jit(flows.Planar(1).apply)({}, x, np.concatenate([u, w, b]))
    np.testing.assert_allclose(y, x + u / 2 * np.tanh(2 * x[:, 1:] + b), rtol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)


def test_a_coordinate_of_an_autoregressive_layer_depends_on_those_before_and_on_the_context():
    layer = flows.Autoregressive(4, hidden=7)
    x, context = np.random.default_rng(3).normal(size=(2, 20, 4)).astype(np.float32)
    draw = lambda leaf: np.random.default_rng(4).normal(size=leaf.shape).astype(np.float32)
    weights = jax.tree.map(draw, jax.eval_shape(layer.init, KEY, x[0], context[0]))
    jacobian = jax.jacfwd(lambda x, context: layer.apply(weights, x, context)[0], argnums=(0, 1))
    jacobians, in_context = jax.device_get(jax.jit(jax.vmap(jacobian))(x, context))
    assert np.all(np.triu(jacobians, 1) == 0)
    assert np.all(np.any(jacobians != 0, axis=0)[np.tril_indices(4)])  # a ReLU may be off at some x
    assert np.all(np.any(in_context != 0, axis=0))


def test_a_spline_is_the_identity_outside_of_its_range_and_continuous():
    spline = flows.Spline(bins=5)
    numbers = np.random.default_rng(5).normal(size=spline.numbers).astype(np.float32)
    x = np.float32([-7, -5.001, -5, -4.9999, 1.5, 4.9999, 5, 5.001, 7])
    y, log_slope = jax.device_get(jax.jit(spline.forward)(x, np.broadcast_to(numbers, (len(x), spline.numbers))))
    np.testing.assert_allclose(y[[0, 1, 2, 6, 7, 8]], x[[0, 1, 2, 6, 7, 8]])
    np.testing.assert_allclose(y[[3, 5]], x[[3, 5]], atol=1e-3)
    np.testing.assert_allclose(log_slope[[0, 1, 3, 5, 7, 8]], 0, atol=1e-2)  # the slopes at the ends are 1
    assert abs(y[4] - x[4]) > 0.1


def test_freezing_a_flow_holds_its_weights_and_leaves_the_path():
    q = make_flow("coupling")

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(q, z):
        return jnp.sum(jax.lax.stop_gradient(q).log_prob(z)) + jnp.sum(q.sample(KEY, 2))

    in_q, in_z = jax.device_get(gradients(q, np.ones((K, BATCH, 2), np.float32)))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(in_q))
    assert np.all(in_z != 0)
    path = jax.device_get(jax.jit(jax.grad(lambda q: jnp.sum(q.rsample(KEY, 2) ** 2)))(q))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(path))
