"""MLMC and SUMO: the mean over their random numbers of samples is the bound of the largest number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import vr_iwae
from tests.helpers.draws import draw_gradients
from vae import diagnostics, distributions
from vae.estimators import Estimator, log_mean_exp, make
from vae.estimators.mlmc import level_bound, level_probabilities
from vae.estimators.parts.random_size import random_size
from vae.estimators.sumo import roulette_bound


def _levels(reduce, num_samples=8):
    """The bounds of all levels of MLMC, with their numbers of samples and probabilities."""
    return [(2**n, p, level_bound(reduce, p)) for n, p in enumerate(level_probabilities(num_samples), start=1)]


def _rounds(_, num_samples=4):
    """The same for every N of SUMO: P(N = n) is 1/n - 1/(n + 1), and 1/n for the largest n."""
    probability = lambda n: 1 / n - 1 / (n + 1) if n < num_samples - 1 else 1 / n
    return [(n + 1, probability(n), roulette_bound(n)) for n in range(1, num_samples)]


def _sum_of_halves(reduce):
    """A slip: Delta subtracts the sum of the two halves."""

    def wrong(p, values):
        return reduce(values[:1]) + (reduce(values) - reduce(values[::2]) - reduce(values[1::2])) / p

    return [(size, p, functools.partial(wrong, p)) for size, p, _ in _levels(reduce)]


def _without_probabilities(reduce):
    """A slip: the steps of the roulette are not divided by P(N >= k)."""
    return [(size, p, reduce) for size, p, _ in _rounds(reduce)]


def _expectation(parts, logit):
    """The mean of the bounds of the parts: a sum over all samples of one bit."""
    total = 0.0
    for size, probability, bound in parts:
        z = jnp.asarray(np.indices((2,) * size).reshape(size, -1))  # [K, 2^K]
        log_q = z * logit - jnp.logaddexp(0.0, logit)
        values = jnp.sin(2.0 * z) - 1.3 * z - 0.4 - log_q
        total = total + probability * jnp.sum(jnp.exp(jnp.sum(log_q, axis=0)) * bound(values))
    return total


def _error(parts, reduce):
    """The largest difference between the mean of the parts and the bound of all samples, in value and gradient."""
    whole = [(max(size for size, _, _ in parts), 1.0, reduce)]
    difference = lambda logit: _expectation(parts, logit) - _expectation(whole, logit)
    with jax.enable_x64(True):
        return np.max(np.abs(jax.jit(jax.value_and_grad(difference))(0.7)))


@pytest.mark.parametrize(
    ("parts", "reduce"),
    [
        (_levels, log_mean_exp),
        (_rounds, log_mean_exp),
        pytest.param(_levels, vr_iwae(0.3), marks=pytest.mark.slow),
    ],
)
def test_the_mean_over_levels_and_states_is_the_bound_of_all_samples(parts, reduce):
    assert _error(parts(reduce), reduce) < 1e-12


def test_a_level_of_mlmc_uses_all_its_samples_and_is_probable_enough():
    probabilities = level_probabilities(8)
    np.testing.assert_allclose(probabilities / probabilities[0], [1, 2**-1.5, 2**-3], rtol=1e-6)
    assert np.sum(probabilities) == pytest.approx(1)
    weights = np.float32([1, 3, 6, 2])
    delta = np.log(3) - 0.5 * (np.log(3.5) + np.log(2.5))
    estimate = level_bound(log_mean_exp, 0.25)(jnp.log(weights))
    np.testing.assert_allclose(estimate, np.mean(np.log(weights)) + delta / 0.25, rtol=1e-5)


@pytest.mark.parametrize("parts", [_sum_of_halves, _without_probabilities])
def test_control_slips_in_the_combination_of_bounds_are_seen(parts):
    assert _error(parts(log_mean_exp), log_mean_exp) > 1e-3


def _reversed_levels(num_samples: int) -> Estimator:
    """A slip: the levels have each other's probabilities."""

    def choose(key, reduce):
        probabilities = level_probabilities(num_samples)
        level = jax.random.choice(key, len(probabilities), p=jnp.asarray(probabilities[::-1]))
        return level, [level_bound(reduce, p) for p in probabilities]

    return random_size("mlmc", num_samples, "reparam", choose)


Q = distributions.Normal(jnp.array([[0.7]]), jnp.array([[-0.5]]))


def _f(z):
    return -jnp.sum(jnp.square(1.1 - 1.5 * jnp.sin(z)), axis=-1)


ARGUMENTS = {"reduce": log_mean_exp, "log_q_weight": 1.0}
_flat = lambda q: np.concatenate([q.mean, q.log_var], axis=-1)[:, 0]


@functools.cache
def _truth():
    return _flat(draw_gradients(make("exact", num_samples=4, order=12), Q, _f, 1, **ARGUMENTS))[0]


def _z_score(estimator, draws=2**15):
    """The distance of the mean gradient from the exact one in standard errors, and the largest relative error."""
    gradients = _flat(draw_gradients(estimator, Q, _f, draws, **ARGUMENTS))
    error = gradients.std(axis=0, ddof=1) / np.sqrt(draws)
    return np.max(np.abs(gradients.mean(axis=0) - _truth()) / error), np.max(error / np.abs(_truth()))


SLOW = pytest.mark.slow
CASES = [("mlmc", "dreg"), pytest.param("mlmc", "reparam", marks=SLOW), pytest.param("sumo", "dreg", marks=SLOW)]


@pytest.mark.parametrize(("name", "inner"), [*CASES, ("sumo", "reparam")])
def test_the_gradient_of_a_random_number_of_samples_is_unbiased(name, inner):
    score, error = _z_score(make(name, num_samples=4, inner=inner))
    assert error < 0.03
    assert score < 4.5


@pytest.mark.slow
def test_control_levels_that_do_not_have_their_probabilities_are_seen():
    score, _ = _z_score(_reversed_levels(4))
    assert score > 8


@pytest.mark.parametrize(("name", "num_samples", "mean"), [("mlmc", 4, 2.52), pytest.param("sumo", 8, 4.0, marks=SLOW)])
def test_the_mean_number_of_samples_is_counted(name, num_samples, mean):
    bound = lambda params, data, expect: expect(Q, _f, log_mean_exp, log_q_weight=1.0)
    estimator = make(name, num_samples=num_samples)
    assert diagnostics.evaluations(bound, estimator, jax.random.key(0), params={}) == pytest.approx(mean, abs=0.3)


@pytest.mark.parametrize("name", ["mlmc", "sumo"])
def test_other_numbers_and_other_inner_estimators_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} needs a power of two as num_samples, got 6"):
        make(name, num_samples=6)
    with pytest.raises(ValueError, match=f"{name} has no inner estimator 'vimco'; choose reparam or dreg"):
        make(name, num_samples=4, inner="vimco")
