"""The exact gradient of the smoothed quantizer, against a formula for one number and a score function for two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from experiments.common import problems
from experiments.common.problems.quantized import expected, f, product
from tests.helpers.random_models import float64
from vae import distributions
from vae.estimators import bind, make


def assert_is_the_sum_over_midpoints(gradient, problem, sigma):
    """sum_b (f(code above b) - f(code below b)) density((b - e) / sigma) / sigma, for codes of one number."""
    ticks, e = float64(problem.params["codebook"]["ticks"])[0], float64(problem.params["encoding"]["e"])
    values = float64(f(jnp.asarray(ticks[:, None], jnp.float32)))
    middle = (ticks[1:] + ticks[:-1]) / 2
    sum_over_midpoints = np.sum((values[1:] - values[:-1]) * norm.pdf((middle - e) / sigma) / sigma)
    np.testing.assert_allclose(gradient, sum_over_midpoints, rtol=1e-4)


def test_the_gradient_in_the_encoding_is_a_sum_over_midpoints():
    problem = problems.make("quantized:width=1:sigma=0.4")
    gradient = problem.oracle("elbo", 1)["encoding"]["e"][0]
    assert_is_the_sum_over_midpoints(gradient, problem, sigma=0.4)
    with pytest.raises(AssertionError):
        assert_is_the_sum_over_midpoints(gradient, problem, sigma=0.41)


def test_in_two_directions_it_is_the_score_function_of_the_noise():
    """E f(Q(e + sigma eps)) eps / sigma, by a sum over 400 x 400 quantiles of the noise."""
    problem = problems.make("quantized:sigma=0.4")
    quantiles = norm.ppf((np.arange(400) + 0.5) / 400)
    eps = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2)
    codebook = product(problem.params["codebook"]["ticks"])

    @jax.jit
    def smoothed(encoding):
        return f(distributions.Quantized(encoding[:, None], codebook).code[:, 0])

    values = float64(smoothed(jnp.asarray(float64(problem.params["encoding"]["e"]) + 0.4 * eps, jnp.float32)))
    score = np.mean(values[:, None] * eps, axis=0) / 0.4
    np.testing.assert_allclose(problem.oracle("elbo", 1)["encoding"]["e"], score, rtol=1e-2)


def test_the_mean_over_the_batch_is_the_smoothed_bound():
    problem = problems.make("quantized")
    expect = bind(make("vq_straight_through"), {}, {}, jax.random.key(0))

    @jax.jit
    def both(params):
        return jnp.mean(problem.bounds["elbo"](params, problem.data, expect).value), expected(params, 0.5)

    value, truth = both(problem.params)
    assert float(value) == pytest.approx(float(truth), rel=3e-3)
