"""Compares the mean gradient with the exact gradient, and checks that a wrong gradient would be noticed."""

import itertools

import jax
import numpy as np
import pytest
import vae

import my_estimator  # noqa: F401  (adds to the tables)

ENTRY = vae.estimators.BY_NAME["my_estimator"]
NUM_SAMPLES = max(2, ENTRY.min_samples)
BOUNDS = {"mean": vae.mean, "log_mean_exp": vae.log_mean_exp}
FAMILIES = ("Normal", "MultivariateNormal", "Bernoulli", "Categorical")  # those that have an exact gradient
CASES = [
    (family, bound)
    for family, bound in itertools.product(FAMILIES, BOUNDS)
    if ENTRY.refusal(getattr(vae.distributions, family), BOUNDS[bound], log_q_weight=1.0) is None
]


def test_the_entry_claims_a_family_with_an_exact_gradient():
    assert CASES, f"latents={ENTRY.latents} has none of {', '.join(FAMILIES)}; test the estimator in another way"


@pytest.mark.parametrize(("family", "bound"), CASES)
def test_the_mean_gradient_is_exact_as_claimed_and_a_wrong_gradient_is_noticed(family, bound):
    estimator = vae.estimators.make("my_estimator", num_samples=NUM_SAMPLES)
    certified = vae.testing.certify(estimator, family, bound, NUM_SAMPLES)
    assert bool(certified) != ENTRY.biased, str(certified)
    assert not any(certified.slips.values()), str(certified)


@pytest.mark.parametrize(("family", "bound"), CASES)
def test_the_loss_of_the_control_variate_has_no_gradient_in_q(family, bound):
    problem = vae.testing.problem(family)
    estimator = vae.estimators.make("my_estimator", num_samples=NUM_SAMPLES)
    x = problem.theta["x"]
    params, state = estimator.init(jax.random.key(0), problem.posterior(problem.phi), x)

    def loss(phi):
        expect = vae.bind(estimator, params, state, jax.random.key(1), x)
        estimate = expect(problem.posterior(phi), problem.integrand(problem.theta), BOUNDS[bound], log_q_weight=1.0)
        return estimate.cv_loss

    for leaf in jax.tree.leaves(jax.grad(loss)(problem.phi)):
        np.testing.assert_array_equal(leaf, 0)
