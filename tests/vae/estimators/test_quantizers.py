"""The estimators of quantized latents, against Jacobians and integrals that NumPy and scipy compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from tests.helpers.draws import draw_gradients
from tests.helpers.random_models import float64
from vae import distributions as dist
from vae import estimators
from vae.estimators import integrand, stateless
from vae.estimators.parts.quantization import length, unit

ENCODING = np.float32([[[0.9, -0.5, 0.3], [-0.2, 0.7, 1.1]], [[1.2, 0.4, -0.6], [0.1, -0.8, 0.5]]])  # [B=2, D=2, W=3]
CODEBOOK = np.float32([[1.1, -0.2, 0.4], [-0.3, 0.9, 0.8], [0.2, -1.0, 0.1], [0.7, 0.6, -0.9]])
WEIGHT = np.float32([[0.7, -0.4, 1.1], [0.5, 0.9, -0.8]])  # [D, W]


def f(z):
    """A function of each datum with derivatives `slope`."""
    return jnp.sum(jnp.sin(1.3 * z) * WEIGHT, axis=(-2, -1))


def slope(z):
    return 1.3 * np.cos(1.3 * float64(z)) * WEIGHT


def gradients(name, key=0, num_samples=1, f=f, encoding=ENCODING, codebook=CODEBOOK, **options):
    """The value `[B]`, and the gradients of its sum in the encoding and in the codebook."""
    estimator = (
        estimators.make(name, num_samples=num_samples, **options) if isinstance(name, str) else name(num_samples)
    )

    def total(encoding, codebook):
        q = dist.Quantized(encoding, codebook)
        value = estimator.estimate({}, {}, jax.random.key(key), q, f, log_q_weight=1.0).value
        return jnp.sum(value), value

    (_, value), grads = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(encoding, codebook)
    return float64(value), *map(float64, grads)


def codes():
    """The nearest codes `[B, D, W]` and their numbers `[B, D]`."""
    distance = np.sum((float64(ENCODING)[..., None, :] - float64(CODEBOOK)) ** 2, axis=-1)
    index = np.argmin(distance, axis=-1)
    return float64(CODEBOOK)[index], index


def in_codebook(grads):
    """The sum over positions `[B, D, W]` of gradients in the codes, by code `[C, W]`."""
    total = np.zeros(CODEBOOK.shape)
    np.add.at(total, codes()[1], grads)
    return total


@pytest.mark.parametrize("name", ["vq_straight_through", "rotation", "diveq", "nsvq"])
def test_the_value_is_that_of_the_code(name):
    value, *_ = gradients(name, num_samples=2)
    np.testing.assert_allclose(value, f(codes()[0]), rtol=1e-5)


def test_straight_through_copies_the_slope_at_the_code_to_the_encoding():
    _, in_encoding, codebook = gradients("vq_straight_through")
    np.testing.assert_allclose(in_encoding, slope(codes()[0]), rtol=1e-5)
    np.testing.assert_array_equal(codebook, 0)


def test_rounding_is_straight_through_too():
    q = lambda encoding: dist.Rounded(encoding, (5, 4, 3))
    estimate = estimators.make("vq_straight_through").estimate
    value = lambda encoding: jnp.sum(estimate({}, {}, jax.random.key(0), q(encoding), f).value)
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(ENCODING)), slope(q(jnp.asarray(ENCODING)).code), rtol=1e-5)


def _rotations():
    """The matrices `[B, D, W, W]` that turn e into the direction of c in their plane, times |c| / |e|, by Rodrigues'
    formula: cos 1 + sin [a]_x + (1 - cos) a a^T for the axis a."""
    e, (c, _) = float64(ENCODING), codes()
    axis = np.cross(e, c)
    sine = np.linalg.norm(axis, axis=-1) / np.linalg.norm(e, axis=-1) / np.linalg.norm(c, axis=-1)
    cosine = np.sum(e * c, axis=-1) / np.linalg.norm(e, axis=-1) / np.linalg.norm(c, axis=-1)
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    cross = np.cross(np.eye(3), axis[..., None, :])
    outer = axis[..., :, None] * axis[..., None, :]
    turned = cosine[..., None, None] * np.eye(3) - sine[..., None, None] * cross.swapaxes(-1, -2)
    turned = turned + (1 - cosine)[..., None, None] * outer
    return turned * (np.linalg.norm(c, axis=-1) / np.linalg.norm(e, axis=-1))[..., None, None]


def assert_rotates(name):
    _, in_encoding, codebook = gradients(name)
    expected = np.einsum("bdij,bdi->bdj", _rotations(), slope(codes()[0]))
    np.testing.assert_allclose(in_encoding, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(codebook, 0)


def test_the_rotation_takes_the_encoding_to_the_code_and_its_transpose_is_the_gradient():
    np.testing.assert_allclose(np.einsum("bdij,bdj->bdi", _rotations(), float64(ENCODING)), codes()[0], rtol=1e-6)
    assert_rotates("rotation")


@pytest.mark.parametrize("encoding", [0.0, -1.1])
def test_a_rotation_of_a_zero_or_opposite_encoding_is_finite(encoding):
    _, in_encoding, _ = gradients(
        "rotation",
        encoding=np.full((1, 1, 1), encoding, np.float32),
        codebook=np.float32([[1.1], [9.0]]),
        f=lambda z: jnp.sum(z, axis=(-2, -1)),
    )
    assert np.all(np.isfinite(in_encoding))


def test_diveq_without_noise_splits_the_slope_between_encoding_and_code():
    """The code gets the part along c - e, and the encoding the rest."""
    _, in_encoding, codebook = gradients("diveq", sigma=1e-6)
    c, _ = codes()
    along = (c - ENCODING) / np.linalg.norm(c - ENCODING, axis=-1, keepdims=True)
    part = np.sum(slope(c) * along, axis=-1, keepdims=True) * along
    np.testing.assert_allclose(in_encoding, slope(c) - part, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(codebook, in_codebook(part), rtol=1e-4, atol=1e-5)


E_ONE, C_ONE = np.float32([[[0.9, -0.5]]]), np.float32([[1.3, -0.2], [-2.0, 3.0]])  # [B=1, D=1, W=2]
LINE = np.float64([0.7, -1.2])
curved = lambda z: jnp.sum(z[..., 0, :] ** 2 * jnp.asarray(LINE, jnp.float32), axis=-1)
slope_of_curved = lambda z: 2 * z * LINE


def assert_mean_gradient(name, expected, draws=2**15, **options):
    """Asserts that the mean gradients in e and in c, `[2]` each, agree within 4.5 standard errors below 2 %."""

    def one(key, *parts):
        estimate = estimators.make(name, **options) if isinstance(name, str) else name()
        value = lambda encoding, codebook: estimate.estimate(
            {}, {}, key, dist.Quantized(encoding, codebook), curved
        ).value[0]
        in_encoding, in_codebook = jax.grad(value, (0, 1))(*parts)
        return jnp.concatenate([in_encoding[0, 0], in_codebook[0]])

    keys = jax.random.split(jax.random.key(1), draws)
    draws_of_gradient = float64(jax.jit(jax.vmap(one, (0, None, None)))(keys, E_ONE, C_ONE))
    error = draws_of_gradient.std(axis=0) / np.sqrt(draws)
    assert np.all(error < 0.02 * np.linalg.norm(expected))
    assert np.all(np.abs(draws_of_gradient.mean(axis=0) - expected) <= 4.5 * error + 1e-5), "biased"


def _mean_over_directions(directions, weights, points):
    """The mean of the gradients in e and c of f(e + |c - e| u) for fixed directions u, where f is taken at `points`."""
    c, e = float64(C_ONE[0]), float64(E_ONE[0, 0])
    along = (c - e) / np.linalg.norm(c - e)
    in_code = np.sum(slope_of_curved(points) * directions, axis=-1)[:, None] * along
    in_encoding = slope_of_curved(points) - in_code
    return weights @ np.concatenate([in_encoding, in_code], axis=-1)


def _mean_of_nsvq():
    """By the trapezoidal rule over the circle, which is exact to rounding for a trigonometric polynomial."""
    angle = 2 * np.pi * np.arange(64) / 64
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    error = np.linalg.norm(C_ONE[0] - E_ONE[0, 0])
    return _mean_over_directions(directions, np.full(64, 1 / 64), E_ONE[0, 0] + error * directions)


def _mean_of_diveq(sigma):
    """By Gauss-Hermite quadrature over the noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    noise = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    directions = C_ONE[0] - E_ONE[0, 0] + sigma * noise
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    weights = np.outer(weights, weights).ravel() / (2 * np.pi)
    return _mean_over_directions(directions, weights, np.broadcast_to(float64(C_ONE[0]), directions.shape))


def test_the_mean_of_nsvq_is_the_integral_over_directions():
    assert_mean_gradient("nsvq", _mean_of_nsvq())


def test_the_mean_of_diveq_is_the_integral_over_the_noise():
    assert_mean_gradient("diveq", _mean_of_diveq(0.15), sigma=0.15)


@pytest.mark.parametrize(("name", "options"), [("nsvq", {}), ("diveq", {"sigma": 0.5})])
def test_four_samples_have_a_quarter_of_the_variance(name, options):
    def variance(num_samples):
        estimator = estimators.make(name, num_samples=num_samples, **options)
        posterior = lambda encoding: dist.Quantized(encoding, C_ONE)
        return draw_gradients(estimator, E_ONE, curved, 2**13, posterior=posterior).var(axis=0).sum()

    assert 0.2 < variance(4) / variance(1) < 0.3


# --- Slips that the tests above must see


def slip(path, hold_direction=True, hold_scale=True):
    """An estimator with `path(encoding, code, noise)` in place of the code."""

    def make(num_samples=1):
        def estimate(key, q, f, reduce, log_q_weight):
            noise = jax.random.normal(key, (num_samples, *q.encoding.shape))
            z = path(q.encoding, q.code, noise)
            value = reduce(integrand(f, q, 0.0)(q.sample(key, num_samples)))
            return estimators.attach(value, reduce(integrand(f, q, 0.0)(jnp.broadcast_to(z, noise.shape))))

        return stateless(estimate)

    return make


def test_a_reflection_in_place_of_the_rotation_is_found():
    """I - 2 s s^T with s along e - c takes e to c too, and so does a rotation whose parts are not held."""

    def reflected(e, c, _):
        s = stop_gradient(unit(unit(e) - unit(c)))
        turned = e - 2 * jnp.sum(e * s, axis=-1, keepdims=True) * s
        return stop_gradient(length(c) / length(e)) * turned

    with pytest.raises(AssertionError):
        assert_rotates(slip(reflected))


@pytest.mark.parametrize(
    "path",
    [
        lambda e, c, noise: e + length(c - e) * noise,
        lambda e, c, noise: e + stop_gradient(length(c - e)) * unit(noise),
        lambda e, c, noise: e + length(stop_gradient(c) - e) * unit(noise),
    ],
    ids=["noise is not normalized", "length is held", "code is held"],
)
def test_a_slip_of_nsvq_is_found(path):
    with pytest.raises(AssertionError, match="biased"):
        assert_mean_gradient(slip(path), _mean_of_nsvq())


def test_a_direction_that_is_not_held_is_found():
    """e + |c - e| unit(c - e) is c, whose derivative leaves the encoding without a gradient."""
    live = slip(lambda e, c, noise: e + length(c - e) * unit(c - e + 0.15 * noise))
    with pytest.raises(AssertionError, match="biased"):
        assert_mean_gradient(live, _mean_of_diveq(0.15))


def test_estimators_that_need_chance_or_probabilities_are_refused_with_those_that_work():
    q = dist.Quantized(ENCODING, CODEBOOK)
    able = "these estimators can: vq_straight_through, rotation, diveq"
    for name in ("leave_one_out", "wake_sleep", "gumbel_softmax", "straight_through", "reparam", "exact"):
        with pytest.raises(ValueError, match=rf"{name} cannot .*Quantized latents.*; {able}(, nsvq)?$"):
            estimators.BY_NAME[name].make().init(jax.random.key(0), q)
    with pytest.raises(ValueError, match="nsvq cannot .*Rounded latents; these estimators can: vq_straight_through$"):
        estimators.make("nsvq").init(jax.random.key(0), dist.Rounded(ENCODING, (5, 4, 3)))


@pytest.mark.parametrize("name", ["vq_straight_through", "rotation", "diveq"])
def test_a_codebook_in_float32_quantizes_encodings_in_float64(name):
    with jax.enable_x64(True):
        mixed = gradients(name, encoding=float64(ENCODING))
        expected = gradients(name, encoding=float64(ENCODING), codebook=float64(CODEBOOK))
    for got, truth in zip(mixed, expected, strict=True):
        np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-6)
