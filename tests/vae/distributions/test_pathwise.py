"""The gradients of samples against finite differences of the exact expectation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from tests.helpers.families import (
    BATCH,
    DIM,
    MEMBERS,
    float64,
    frozen,
    z_score,
)
from tests.helpers.flows import make_flow
from vae import distributions as dist
from vae.hierarchy import Markov


def _sine(z):
    """A smooth integrand with a bounded derivative, so that heavy tails have a finite variance."""
    numpy = np if isinstance(z, np.ndarray) else jnp
    return numpy.sin(2 * z) + numpy.cos(z)


ONE_DIMENSIONAL = {
    "Normal": dist.Normal(np.float32([0.4]), np.float32([-0.5])),
    "Laplace": dist.Laplace(np.float32([0.4]), np.float32([-0.5])),
    "StudentT": dist.StudentT(np.float32([0.4]), np.float32([-0.5]), np.float32([np.log(3.5)])),
    "Gamma": dist.Gamma(np.float32([0.3]), np.float32([0.4])),
    "Gamma below 1": dist.Gamma(np.float32([-1.0]), np.float32([-0.4])),
    "Beta": dist.Beta(np.float32([0.5]), np.float32([-0.3])),
}


def _expectation(q):
    """E sin(2 z) + cos(z) of a one-dimensional q, by adaptive quadrature in the variable v, z = F^-1(F_normal(v))."""
    family = frozen(q)
    v = np.linspace(-8.5, 8.5, 20_001)
    # Both tails by the function that is accurate there; the integrand is smooth, so the trapezoidal rule is exact.
    z = np.where(v < 0, family.ppf(st.norm.cdf(v)), family.isf(st.norm.sf(v)))
    return np.sum(_sine(z) * st.norm.pdf(v)) * (v[1] - v[0])


def _finite_differences(function, q, h=1e-4):
    """d function / d q in float64, every leaf an array of its shape."""
    leaves, tree = jax.tree.flatten(jax.tree.map(float64, q))
    out = []
    for i, leaf in enumerate(leaves):
        gradient = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            value = []
            for sign in (1, -1):
                shifted = leaf.copy()
                shifted[index] += sign * h
                value.append(function(jax.tree.unflatten(tree, [*leaves[:i], shifted, *leaves[i + 1 :]])))
            gradient[index] = (value[0] - value[1]) / (2 * h)
        out.append(gradient)
    return jax.tree.unflatten(tree, out)


@functools.partial(jax.jit, static_argnums=1)
def _pathwise(q, integrand):
    """One gradient of integrand(z) in q for each draw: every leaf `[draws, *leaf]`, by one backward pass."""
    tiled = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (60_000, *leaf.shape)), q)
    return jax.grad(lambda q: jnp.sum(integrand(q.rsample(jax.random.key(3), 1))))(tiled)


def _assert_gradients(draws, truth, largest_error):
    for estimate, exact in zip(jax.tree.leaves(draws), jax.tree.leaves(truth), strict=True):
        scores, error = z_score(float64(estimate), exact)
        assert np.all(scores < 4.5), (scores, exact)
        assert error.max() < largest_error * max(1.0, np.abs(exact).max())


# Beta is Dirichlet of two parts, and compiles for long.
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in ("Beta", dist.Beta) else [])


@pytest.mark.parametrize("name", [_slow(each) for each in ONE_DIMENSIONAL])
def test_rsample_gradient_is_that_of_the_expectation(name):
    q = ONE_DIMENSIONAL[name]
    draws = _pathwise(q, _sine)
    truth = _finite_differences(_expectation, q)
    assert all(np.abs(leaf).min() > 0.01 for leaf in jax.tree.leaves(truth))  # nothing is tested where all is 0
    _assert_gradients(draws, truth, 0.015)
    # Control: a gradient that is wrong by a tenth.
    wrong = jax.tree.map(lambda leaf: leaf + 0.1 * np.abs(leaf) + 0.02, truth)
    with pytest.raises(AssertionError):
        _assert_gradients(draws, wrong, 0.015)


def test_rsample_gradient_of_dirichlet():
    q = dist.Dirichlet(np.float32([0.5, -0.4, 0.1]))
    c = np.array([1.0, -2.0, 0.5], np.float32)

    def expectation(q):
        a = np.exp(q.log_concentration)
        marginals = zip(c, a, a.sum() - a, strict=True)
        return sum(c * st.beta(a, b).expect(lambda z: np.sin(3 * z)) for c, a, b in marginals)

    draws = _pathwise(q, lambda z: jnp.sum(c * jnp.sin(3 * z), axis=-1))
    _assert_gradients(draws, _finite_differences(expectation, q), 0.015)


def test_rsample_gradient_of_multivariate_normal():
    q = dist.MultivariateNormal(np.float32([0.4, -0.7]), np.float32([[0.8, 0.0], [0.5, 1.1]]))

    def expectation(q):
        factor = np.tril(q.cholesky)
        covariance = factor @ factor.T
        sines = np.exp(-0.5 * np.diag(covariance)) * np.sin(q.mean)
        return np.sum(sines) + covariance[0, 1] + q.mean[0] * q.mean[1]

    integrand = lambda z: jnp.sum(jnp.sin(z), axis=-1) + z[..., 0] * z[..., 1]
    draws, truth = _pathwise(q, integrand), _finite_differences(expectation, q)
    read = lambda gradient: (gradient.mean, gradient.cholesky[..., *np.tril_indices(2)])
    _assert_gradients(read(draws), read(truth), 0.015)
    assert np.all(draws.cholesky[..., 0, 1] == 0)  # which is not read


@pytest.mark.parametrize("name", ["Normal", "Laplace", "StudentT", "MultivariateNormal"])
def test_from_noise_is_the_reparameterization_trick(name):
    q, key = MEMBERS[name][0], jax.random.key(6)

    @jax.jit
    def draws(q):
        eps = q.noise(key, (5, BATCH, DIM), jnp.float32)
        return eps, q.from_noise(eps), q.rsample(key, 5), q.sample(key, 5)

    eps, z, rsample, sample = jax.device_get(draws(q))
    scale = q.cholesky if name == "MultivariateNormal" else np.asarray(q.scale)[..., None] * np.eye(DIM)
    np.testing.assert_allclose(
        z, float64(q.mean) + (float64(scale) @ float64(eps)[..., None])[..., 0], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(z, rsample)
    np.testing.assert_array_equal(z, sample)


def _given(weights, above):
    return dist.Normal(jnp.sin(weights[0] * above), jnp.broadcast_to(weights[1], above.shape))


_FIRST, _WEIGHTS = MEMBERS["Normal"][0], (np.float32([0.7, -0.4, 0.2]), np.float32([0.3, -0.8, 0.1]))
WITH_PATH = {
    **{name: MEMBERS[name][0] for name in ("Normal", "Laplace", "MultivariateNormal", "BinaryConcrete", "ExpConcrete")},
    "coupling": make_flow("coupling"),
    "product": dist.Product((MEMBERS["Normal"][0], MEMBERS["Laplace"][0])),
    "layers": Markov(_FIRST, (_WEIGHTS, _WEIGHTS), (_given, _given), descending=True),
}


@jax.jit
def _with_path(q):
    """A sample, the sample with its path, and the gradients by `rsample` and by `with_path`."""
    z = q.sample(jax.random.key(0), 3)
    total = lambda z: sum(jnp.sum(jnp.sin(2 * leaf)) for leaf in jax.tree.leaves(z))
    by_rsample = jax.grad(lambda q: total(q.rsample(jax.random.key(0), 3)))(q)
    by_value = jax.grad(lambda q, z: total(q.with_path(z)), argnums=(0, 1))(q, z)
    return z, q.with_path(z), by_rsample, by_value


@pytest.mark.parametrize("name", WITH_PATH)
def test_with_path_gives_a_value_the_derivative_of_the_sample_that_rsample_draws_there(name):
    z, value, by_rsample, (by_value, in_z) = _with_path(WITH_PATH[name])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), value, z)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), by_value, by_rsample)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(by_rsample))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(in_z))


def test_families_whose_noise_cannot_be_held_have_no_with_path():
    for name in ("StudentT", "Gamma", "Beta", "Dirichlet", "Bernoulli", "Categorical"):
        q = MEMBERS[name][0]
        assert not hasattr(q, "with_path")
        assert not hasattr(dist.Product((_FIRST, q)), "with_path")
        assert not hasattr(Markov(q, (), ()), "with_path")
