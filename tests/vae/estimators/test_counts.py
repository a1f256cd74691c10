"""Estimators of Poisson counts against truncated sums and closed forms."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from tests.helpers.oracle import measure, oracle, problem
from vae.distributions import Poisson
from vae.estimators import make, mean

LOG_MEAN = np.float32([0.7, -0.4])


def test_the_measure_valued_gradient_steps_upwards(monkeypatch):
    """Its mean is the derivative of the truncated sum; that of the step downwards is not."""
    exact = oracle("Poisson", "mean", 1)
    report = measure(make("measure_valued"), problem("Poisson"), mean, exact, chunk=2**12, max_chunks=2)
    assert report.biased() == []
    module = importlib.import_module("vae.estimators.measure_valued")
    down = lambda q, key, z: [module._Pair(q.log_mean, weight=q.mean, first=z, second=jnp.maximum(z - 1, 0))]
    monkeypatch.setitem(module._PAIRS, Poisson, down)
    report = measure(make("measure_valued"), problem("Poisson"), mean, exact, chunk=2**12, max_chunks=2)
    assert report.biased() == ["phi"]


def test_the_exact_expectation_is_the_truncated_sum():
    q = Poisson(LOG_MEAN)
    f = lambda z: jnp.sin(z[..., 0]) * z[..., 1]
    value = lambda q: make("exact").estimate({}, {}, None, q, f).value
    counts = np.arange(40)
    first, second = (stats.poisson(rate) for rate in np.exp(np.float64(LOG_MEAN)))
    sine = lambda counts: np.sin(counts) @ first.pmf(np.arange(40))
    step = sine(counts + 1) - sine(counts)  # the derivative in the rate
    rates = np.exp(np.float64(LOG_MEAN))
    truth = sine(counts) * rates[1], [rates[0] * step * rates[1], sine(counts) * rates[1]]
    found = jax.jit(jax.value_and_grad(value))(q)
    np.testing.assert_allclose(found[0], truth[0], rtol=1e-5)
    np.testing.assert_allclose(found[1].log_mean, truth[1], rtol=1e-5)


def test_a_truncated_sum_that_lacks_probability_is_never_a_number():
    value = lambda q: jnp.sum(make("exact").estimate({}, {}, None, q, lambda z: jnp.sum(z, axis=-1)).value)
    q = Poisson(np.float32([[4.0, 0.0]]))
    with pytest.raises(ValueError, match="the counts below 24 lack more than 1e-4"):
        value(q)
    found, gradient = jax.jit(jax.value_and_grad(value))(q)
    assert np.isnan(found)
    assert np.isnan(gradient.log_mean).all()
    value = lambda q: jnp.sum(make("exact", order=150).estimate({}, {}, None, q, lambda z: jnp.sum(z, axis=-1)).value)
    np.testing.assert_allclose(value(q), np.exp(4) + 1, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_relaxed_counts_have_the_mean_of_campbells_formula(temperature):
    """E sum_t sigmoid((1 - t) / T) = rate T log(1 + e^(1/T)) for arrivals t with this rate, which goes to the rate."""

    @jax.jit
    @jax.vmap
    def draws(key):
        value = lambda log_mean: (
            make("eat", temperature=temperature)
            .estimate({}, {}, key, Poisson(log_mean), lambda z: z @ jnp.float32([1.0, 2.0]))
            .value
        )
        return jax.value_and_grad(value)(jnp.asarray(LOG_MEAN))

    value, gradient = map(np.float64, draws(jax.random.split(jax.random.key(0), 20_000)))
    rates = np.exp(np.float64(LOG_MEAN)) * [1, 2]
    relaxed = rates * temperature * np.log1p(np.exp(1 / temperature))
    for seen, truth, hard in ((value[:, None], relaxed.sum(), rates.sum()), (gradient, relaxed, rates)):
        error = seen.std(axis=0) / np.sqrt(len(seen))
        assert np.all(np.abs(seen.mean(axis=0) - truth) < 4.5 * error)
        far = np.abs(seen.mean(axis=0) - hard) > 4.5 * error
        assert np.all(far) if temperature == 0.5 else not np.any(far)  # the bias, and its end


def test_the_density_between_counts_is_that_of_the_gamma_function():
    z = np.float32([[0.2, 0.9], [1.0, 2.5], [7.3, 0.0]])[:, None]
    found, slope = jax.vjp(jax.jit(Poisson(LOG_MEAN[None]).log_prob), z)
    z64 = np.float64(z)
    truth = z64 * LOG_MEAN - np.exp(np.float64(LOG_MEAN)) - special.gammaln(1 + z64)
    np.testing.assert_allclose(found, truth.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(slope(jnp.ones((3, 1)))[0][:2], (LOG_MEAN - special.digamma(1 + z64))[:2], rtol=1e-4)
