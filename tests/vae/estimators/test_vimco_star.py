"""VIMCO-star and OVIS against their published formulas, and how their signal-to-noise ratios depend on K."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import assert_same
from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import gradient_program, problem
from vae import distributions
from vae.estimators import Reduction, log_mean_exp, make

DRAWS = 8000


def published(coefficient, toy, key, num_samples):
    """The value, and the gradient in q of sum_k coefficient(w, log Z)_k log q(z_k), with normalized weights w."""

    @jax.jit
    def run(q):
        z = q.sample(key, num_samples)
        log_w = toy.log_weight(toy.theta, z, q)  # [K, B]
        w = jax.nn.softmax(log_w, axis=0)
        grads = jax.grad(lambda q: jnp.sum(coefficient(w, log_w) * q.log_prob(z)))(q)
        return log_mean_exp(log_w), grads

    return run(toy.posterior(toy.phi))


def gradients(estimator, toy, key):
    (_, value), (phi, _) = jax.jit(gradient_program(estimator, toy, log_mean_exp, {}, {}))(toy.phi, toy.theta, key)
    return value, phi


@pytest.mark.parametrize("family", ["Normal", "Bernoulli"])
def test_the_coefficients_of_vimco_star_are_the_published_ones(family):
    """arXiv:2602.01412: -log(1 - w_k) - w_k, with the direct term."""
    toy, key = problem(family), jax.random.key(4)
    expected = published(lambda w, _: -jnp.log1p(-w) - w, toy, key, 4)
    assert_same(gradients(make("vimco_star", num_samples=4), toy, key), expected)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_the_coefficients_of_ovis_are_the_published_ones(gamma):
    """arXiv:2008.01998: log Z - w_k - c_k, where log Z_k is the log of the mean of the other weights and
    c_k = log Z_k - gamma w_k + (1 - gamma) log(1 - 1/K)."""

    def coefficient(w, log_w):
        others = jnp.stack([log_mean_exp(jnp.delete(log_w, k, axis=0)) for k in range(4)])
        return log_mean_exp(log_w) - w - (others - gamma * w + (1 - gamma) * jnp.log(1 - 1 / 4))

    toy, key = problem("Bernoulli"), jax.random.key(4)
    expected = published(coefficient, toy, key, 4)
    assert_same(gradients(make("ovis", num_samples=4, gamma=gamma), toy, key), expected)


def test_ovis_is_vimco_star_only_at_gamma_zero():
    toy, key = problem("Normal"), jax.random.key(4)
    expected = gradients(make("vimco_star"), toy, key)
    assert_same(gradients(make("ovis", gamma=0.0), toy, key), expected)
    with pytest.raises(AssertionError):
        assert_same(gradients(make("ovis", gamma=0.1), toy, key), expected)


class Listed(NamedTuple):
    """A q whose parameters are the log-densities of its samples, so a gradient is the list of the coefficients."""

    log_densities: jax.Array
    batch_shape = ()

    def sample(self, key, num_samples):
        return jnp.zeros((num_samples, 1))

    def log_prob(self, z):
        return self.log_densities


@pytest.mark.parametrize(("name", "options"), [("vimco_star", {}), ("ovis", {"gamma": 0.0})])
@pytest.mark.parametrize("largest", [0.0, 8.0, 200.0])
@pytest.mark.parametrize("num_samples", [2, 1024])
def test_coefficients_keep_their_digits_in_float32(name, options, num_samples, largest):
    """The weights are of order 1/K, so the coefficients are of order 1/K^2; or one weight is near 1."""
    log_w = np.float32(np.random.default_rng(0).normal(size=num_samples) - 3000)
    log_w[-1] += np.float32(largest)
    w = np.exp(np.float64(log_w) - np.max(log_w))
    others = np.array([np.sum(np.delete(w, k)) for k in range(num_samples)])
    expected = -np.log(others / np.sum(w)) - w / np.sum(w)

    def value(log_densities):
        q, estimator = Listed(log_densities), make(name, num_samples=num_samples, **options)
        return estimator.estimate({}, {}, jax.random.key(0), q, lambda z: jnp.asarray(log_w), log_mean_exp, 1.0).value

    coefficients = jax.jit(jax.grad(value))(jnp.zeros(num_samples))
    np.testing.assert_allclose(coefficients, expected, rtol=1e-5, atol=1e-15)


def test_the_signal_to_noise_ratio_of_vimco_star_grows_with_the_samples_and_that_of_vimco_falls():
    """log p(x, z) is that of z ~ N(0, 1), x ~ N(z, 1) at x = 1.5, and q is N(0.6, 0.7)."""
    q = distributions.Normal(jnp.array([0.6]), jnp.log(jnp.array([0.7])))
    f = lambda z: -0.5 * jnp.sum(jnp.square(z) + jnp.square(1.5 - z), axis=-1)

    def snr(name, num_samples):
        estimator = make(name, num_samples=num_samples)
        grads = draw_gradients(estimator, q, f, DRAWS, reduce=log_mean_exp, log_q_weight=1.0).mean
        return abs(grads.mean()) / grads.std()

    error = 1 / np.sqrt(DRAWS)  # the standard error of a small ratio
    assert snr("vimco", 64) < snr("vimco", 4) - 2 * error
    assert 3 < snr("vimco_star", 64) / snr("vimco_star", 4) < 6  # the root of 16 is 4


def test_a_bound_that_is_not_defined_without_a_sample_is_refused():
    reduce = Reduction(lambda values: jnp.sum(jax.nn.softmax(values, axis=0) * values, axis=0), name="self_normalized")
    q = distributions.Bernoulli(jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="vimco_star leaves out one sample at a time, and the bound self_normalized"):
        jax.jit(lambda key: make("vimco_star").estimate({}, {}, key, q, lambda z: jnp.sum(z, -1), reduce, 1.0).value)(
            jax.random.key(0)
        )
