"""Straight-through estimators of one variable: each sample has a matrix, which is compared with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae.distributions import Categorical
from vae.distributions.base import family
from vae.estimators.gapped_st import gapped_st
from vae.estimators.generalized_st import generalized_st
from vae.estimators.reinmax import reinmax
from vae.estimators.reinmax_rao import reinmax_rao

LOGITS = np.float32([0.4, -0.9, 1.1, 0.0])


@family
class _EachClassOnce(Categorical):
    """One variable whose samples are all of its C classes in turn."""

    def sample(self, key, num_samples):
        return jnp.eye(num_samples)[:, None]


def _matrices(make, logits, **options):
    """The matrix W of each sample `[sample, C, C]`: the gradient in the logits is W df/dz."""
    classes = len(logits)
    estimator = make(classes, **options)

    def gradient(sample, entry):
        f = lambda z: classes * z[..., 0, entry] * (jnp.arange(classes) == sample)
        value = lambda logits: estimator.estimate({}, {}, jax.random.key(0), _EachClassOnce(logits[None]), f).value
        return jax.grad(value)(logits)

    over_entries = jax.vmap(gradient, in_axes=(None, 0), out_axes=1)
    return np.float64(jax.jit(jax.vmap(over_entries, in_axes=(0, None)))(jnp.arange(classes), jnp.arange(classes)))


def _jacobian(p):
    return np.diag(p) - np.outer(p, p)


def _softmax(logits):
    weights = np.exp(np.float64(logits))
    return weights / weights.sum()


def _expected_and_exact(matrices, degree):
    """The expected gradient of (c'z)^degree + (d'z)^degree, and the exact one."""
    p = _softmax(LOGITS)
    expected, exact = 0, 0
    for c in np.random.default_rng(0).normal(size=(2, len(p))):
        expected = expected + sum(p[i] * matrices[i] @ (degree * c[i] ** (degree - 1) * c) for i in range(len(p)))
        exact = exact + _jacobian(p) @ c**degree
    return expected, exact


@pytest.mark.parametrize("make", [generalized_st, reinmax])
def test_generalized_straight_through_and_reinmax_are_exact_on_quadratic_functions_only(make):
    matrices = _matrices(make, LOGITS)
    for degree in (1, 2):
        np.testing.assert_allclose(*_expected_and_exact(matrices, degree), atol=2e-6)
    expected, exact = _expected_and_exact(matrices, 3)
    assert np.max(np.abs(expected - exact)) > 1e-2


def test_generalized_straight_through_has_the_least_norm():
    p = _softmax(LOGITS)
    norm = lambda make: np.sum(p[:, None, None] * np.square(_matrices(make, LOGITS)))
    assert norm(generalized_st) < 0.999 * norm(reinmax)


def test_generalized_straight_through_has_the_published_matrices():
    """W_i e_i = (e_i - p) / 2 and W_i e_j = p_j / (p_i + p_j) J G^+ (e_j - e_i) / 2."""
    p, one = _softmax(LOGITS), np.eye(4)
    weight = np.outer(p, p) / np.add.outer(p, p) * (1 - one)
    half = 0.5 * _jacobian(p) @ np.linalg.pinv(np.diag(weight.sum(0)) - weight)
    expected = np.zeros((4, 4, 4))
    for i in range(4):
        for j in range(4):
            expected[i, :, j] = (one[i] - p) / 2 if i == j else p[j] / (p[i] + p[j]) * half @ (one[j] - one[i])
    np.testing.assert_allclose(_matrices(generalized_st, LOGITS), expected, atol=2e-6)


def test_generalized_straight_through_of_two_classes_is_reinmax():
    matrices = [_matrices(make, np.float32([0.7, -0.4])) for make in (generalized_st, reinmax)]
    np.testing.assert_allclose(*matrices, atol=1e-6)


@pytest.mark.parametrize("logits", [[80.0, -80.0, 0.0], [200.0, -200.0, 0.0], [0.0, -np.inf, -np.inf], [-30, 0.0, -30]])
def test_generalized_straight_through_is_finite_and_bounded_for_extreme_logits(logits):
    assert np.all(np.abs(_matrices(generalized_st, np.float32(logits))) <= 1)


@pytest.mark.parametrize(("temperature", "gap"), [(0.5, 1.0), (1.0, 0.2)])
def test_gapped_straight_through_has_the_jacobian_at_the_moved_logits(temperature, gap):
    """The sampled logit is raised to the maximum m, and the others are lowered to at most m - gap."""
    matrices = _matrices(gapped_st, LOGITS, temperature=temperature, gap=gap)
    for i, matrix in enumerate(matrices):
        moved = np.minimum(LOGITS, LOGITS.max() - gap)
        moved[i] = LOGITS.max()
        np.testing.assert_allclose(matrix, _jacobian(_softmax(moved / temperature)) / temperature, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_reinmax_has_the_jacobians_at_the_midpoint_and_at_the_mean(temperature):
    """The temperature is that of the midpoint alone."""
    for i, matrix in enumerate(_matrices(reinmax, LOGITS, temperature=temperature)):
        halfway = (np.eye(len(LOGITS))[i] + _softmax(LOGITS / temperature)) / 2
        np.testing.assert_allclose(matrix, 2 * _jacobian(halfway) - _jacobian(_softmax(LOGITS)) / 2, atol=1e-6)


def test_reinmax_rao_shrinks_the_gradient_of_a_fair_bit_by_a_known_factor():
    """At temperature 1, the derivative of the relaxed sample s of the class with probability 3/4 has the mean
    E[s (1 - s) | s > 1/2] = 2 log 2 - 5/4. ReinMax has 3/16 in its place, with which the gradient is 1/4.

    The mean of M numbers in [0, 1/4] has a standard error of at most 1 / (8 sqrt(M)).
    """
    inner_samples = 2**15
    matrices = _matrices(reinmax_rao, np.zeros(2, np.float32), inner_samples=inner_samples)
    expected = 2 * (2 * np.log(2) - 5 / 4) - 1 / 8
    assert np.abs(matrices[:, 0, 0] - expected).max() < 4.5 * 2 / (8 * np.sqrt(inner_samples))
    assert expected < 0.6 * _matrices(reinmax, np.zeros(2, np.float32))[0, 0, 0]
