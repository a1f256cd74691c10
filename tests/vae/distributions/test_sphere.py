"""Power spherical and von Mises-Fisher against scipy, closed forms and quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
import scipy.stats as st

from tests.helpers.families import float64
from vae import distributions as dist
from vae.distributions.von_mises_fisher import _implicit, log_normalizer, shortfall

LOCATION = np.float32([0.3, -0.5, 1.0, 0.2, -0.1])
DIRECTION = float64(LOCATION) / np.linalg.norm(float64(LOCATION))
FAMILIES = {"PowerSpherical": dist.PowerSpherical, "VonMisesFisher": dist.VonMisesFisher}
# The implicit gradient of a Beta compiles for long.
NAMES = [pytest.param("PowerSpherical", marks=pytest.mark.slow), "VonMisesFisher"]


@functools.cache
def answers(name):
    """Samples of a member with the concentration 2, their log-densities, mean, KL, and the gradients of each sample's
    coordinate along a fixed direction in both parameters."""

    @jax.jit
    def program(location, log_concentration):
        q = FAMILIES[name](location, log_concentration)
        z = q.rsample(jax.random.key(0), 1)[0]
        return {
            "z": z,
            "q": q.log_prob(z[None])[0],
            "mean": q.mean[0],
            "kl": dist.kl(q, dist.UniformOnSphere(5))[0],
            "along": jax.grad(
                lambda *leaves: jnp.sum(FAMILIES[name](*leaves).rsample(jax.random.key(0), 1)[0] @ TARGET), (0, 1)
            )(location, log_concentration),
        }

    draws = 60_000
    with jax.numpy_dtype_promotion("strict"):
        return jax.device_get(program(np.tile(LOCATION, (draws, 1)), np.full((draws, 1), np.log(2.0), np.float32)))


TARGET = np.float32(DIRECTION + [0.0, 0.5, 0.0, 0.0, -0.8])


def resultant(name, concentration, dimensions=5):
    """E[direction . z]."""
    if name == "PowerSpherical":
        return concentration / (concentration + dimensions - 1)
    return sp.ive(dimensions / 2, concentration) / sp.ive(dimensions / 2 - 1, concentration)


def true_log_prob(name, z, concentration=2.0, dimensions=5):
    along = float64(z) @ DIRECTION
    if name == "VonMisesFisher":
        return st.vonmises_fisher(DIRECTION, concentration).logpdf(float64(z) / np.linalg.norm(z, axis=-1)[:, None])
    beta = (dimensions - 1) / 2
    alpha = beta + concentration
    log_normalizer = (alpha + beta) * np.log(2) + beta * np.log(np.pi) + sp.gammaln(alpha) - sp.gammaln(alpha + beta)
    return concentration * np.log1p(along) - log_normalizer


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_that_of_the_paper(name):
    z = answers(name)["z"][:200]
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(answers(name)["q"][:200], true_log_prob(name, z), atol=2e-5)


def _assert_mean(draws, truth):
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - truth) < 4.5 * error)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_the_density(name):
    """E[u(z) / q(z)] = 1 for the uniform u; mean and divergence are those of the samples."""
    found = answers(name)
    log_uniform = sp.gammaln(2.5) - np.log(2) - 2.5 * np.log(np.pi)
    _assert_mean(np.exp(log_uniform - float64(found["q"])), 1.0)
    _assert_mean(float64(found["z"]), found["mean"])
    np.testing.assert_allclose(found["mean"], resultant(name, 2.0) * DIRECTION, rtol=1e-5)
    _assert_mean(float64(found["q"]) - log_uniform, found["kl"])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_samples_are_those_of_the_mean(name):
    """The mean is the resultant length times the direction, so its derivatives in both parameters have closed forms."""
    in_location, in_log_concentration = map(float64, answers(name)["along"])
    length = resultant(name, 2.0)
    slope = 4 / 36 if name == "PowerSpherical" else 0.147389  # d length / d concentration
    along = DIRECTION @ float64(TARGET)
    _assert_mean(in_log_concentration[:, 0], 2 * slope * along)
    assert abs(in_log_concentration.mean() / (2 * along) - 0.1277) > 0.005  # what a well-known implementation gives
    tangent = length * (float64(TARGET) - along * DIRECTION) / np.linalg.norm(LOCATION)
    _assert_mean(in_location, tangent)
    assert np.abs(tangent).max() > 0.1


SIZES = np.geomspace(1e-3, 1e3, 13)


@pytest.mark.parametrize("dimensions", [2, 5, 50])
def test_the_bessel_functions_are_scipys(dimensions):
    order = dimensions / 2 - 1
    concentration = np.float32(SIZES)
    x = float64(concentration)
    truth = sp.gammaln(order + 1) + order * np.log(2 / x) + np.log(sp.ive(order, x))
    less = 1 - sp.ive(order + 1, x) / sp.ive(order, x)
    program = jax.jit(lambda x: (log_normalizer(x, dimensions), shortfall(x, dimensions)))
    ours, our_less = program(concentration)
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=3e-5)
    np.testing.assert_allclose(our_less, less, rtol=2e-5)


SLOW_SIZES = [pytest.param(*size, marks=pytest.mark.slow) for size in ((2, 1e-3), (2, 1e3), (3, 5.0), (50, 1e3))]


@pytest.mark.parametrize(("dimensions", "concentration"), [(5, 2.0), *SLOW_SIZES])
def test_the_derivative_of_an_angle_is_that_of_its_quantile(dimensions, concentration):
    """At quantiles from 0.1 % to 99.9 %, by differences of a distribution function on a grid."""
    angle = np.linspace(0, np.pi, 400_001)

    def distribution(x):
        density = np.exp(x * (np.cos(angle) - 1)) * np.sin(angle) ** (dimensions - 2)
        total = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
        return total / total[-1], density / total[-1] / angle[1]

    h = 1e-3
    function, density = distribution(concentration)
    slope = (distribution(concentration * (1 + h))[0] - distribution(concentration * (1 - h))[0]) / (2 * h)
    at = np.searchsorted(function, [0.001, 0.03, 0.3, 0.5, 0.8, 0.97, 0.999])
    truth = -slope[at] / density[at] / np.sin(angle[at])
    log_tangent = np.float32(np.log(np.tan(angle[at] / 2)))
    log_concentration = np.full(len(at), np.log(concentration), np.float32)
    program = jax.jit(lambda x, dot: jax.jvp(lambda x: _implicit(log_tangent, x, dimensions), (x,), (dot,))[1])
    ours = program(log_concentration, np.ones_like(log_concentration))
    np.testing.assert_allclose(ours, truth, atol=2e-4 * np.abs(truth).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_everything_is_finite_at_the_ends(name):
    """Concentrations of 1e-3 and 1e3, locations at 0, on an axis and far away, and z opposite to the direction."""
    location = np.float32([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [1e6, -1e6, 0]] * 2)
    log_concentration = np.log(np.float32([[1e-3]] * 4 + [[1e3]] * 4))

    def everything(location, log_concentration):
        q = FAMILIES[name](location, log_concentration)
        z = q.rsample(jax.random.key(0), 4)
        far = q.log_prob(-q.direction[None])
        return jnp.sum(q.log_prob(z)) + jnp.sum(jnp.sin(z)) + jnp.sum(dist.kl(q, dist.UniformOnSphere(3))), far

    (value, far), gradients = jax.jit(jax.value_and_grad(everything, (0, 1), has_aux=True))(location, log_concentration)
    assert all(np.all(np.isfinite(leaf)) for leaf in (value, far, *gradients))


@pytest.mark.parametrize("dimensions", [2, 20])
def test_a_large_concentration_is_a_normal_on_the_tangent_plane(dimensions):
    """The angle is r / sqrt(concentration), where r does not depend on it, so the derivatives in its log are known."""
    log_concentration = np.float32([12.0, 18.0, 19.0, 35.0, 50.0, 80.0])[:, None]  # float32 overflows at 88.7

    def program(log_concentration):
        q = dist.VonMisesFisher(jnp.ones((6, dimensions)), log_concentration)
        kl = jnp.sum(dist.kl(q, dist.UniformOnSphere(dimensions)))
        return jnp.stack([kl, jnp.mean(jnp.sum(q.log_tangent(jax.random.key(0), 5), axis=(1, 2)))])

    of_kl, of_angle = jax.jit(jax.jacrev(program))(log_concentration)
    np.testing.assert_allclose(of_kl, np.full((6, 1), (dimensions - 1) / 2), rtol=1e-4)
    np.testing.assert_allclose(of_angle, np.full((6, 1), -0.5), rtol=1e-4)


def test_uniform_samples_cover_the_sphere():
    p = dist.UniformOnSphere(3)
    z = float64(jax.jit(p.sample, static_argnums=1)(jax.random.key(0), 20_000))
    assert st.kstest(z[:, 0], st.uniform(-1, 2).cdf).pvalue > 1e-4  # as Archimedes knew
    np.testing.assert_allclose(p.log_prob(z[:3]), -np.log(4 * np.pi), rtol=1e-6)
