"""Compares each mean gradient with the exact gradient, and checks that a wrong gradient would be noticed."""

import itertools

import jax
import numpy as np
import pytest
import vae

from my_estimator import ESTIMATORS

BOUNDS = {"mean": vae.mean, "log_mean_exp": vae.log_mean_exp}
FAMILIES = ("Normal", "MultivariateNormal", "Bernoulli", "Categorical")  # those that have an exact gradient
CASES = [
    (name, family, bound)
    for name, family, bound in itertools.product(ESTIMATORS, FAMILIES, BOUNDS)
    if vae.estimators.BY_NAME[name].refusal(getattr(vae.distributions, family), BOUNDS[bound], log_q_weight=1.0) is None
]


def least_samples(name):
    return max(2, ESTIMATORS[name].min_samples)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_entry_claims_a_family_with_an_exact_gradient(name):
    latents = ESTIMATORS[name].latents
    exact = f"latents={latents} has none of {', '.join(FAMILIES)}; test the estimator in another way"
    assert any(case[0] == name for case in CASES), exact


@pytest.mark.parametrize(("name", "family", "bound"), CASES)
def test_the_mean_gradient_is_exact_as_claimed_and_a_wrong_gradient_is_noticed(name, family, bound):
    estimator = vae.estimators.make(name, num_samples=least_samples(name))
    certified = vae.testing.certify(estimator, family, bound, least_samples(name))
    assert bool(certified) != ESTIMATORS[name].biased, str(certified)
    assert not any(certified.slips.values()), str(certified)


@pytest.mark.parametrize(("name", "family", "bound"), CASES)
def test_the_loss_of_the_control_variate_has_no_gradient_in_q(name, family, bound):
    problem = vae.testing.problem(family)
    estimator = vae.estimators.make(name, num_samples=least_samples(name))
    x = problem.theta["x"]
    params, state = estimator.init(jax.random.key(0), problem.posterior(problem.phi), x)

    def loss(phi):
        expect = vae.bind(estimator, params, state, jax.random.key(1), x)
        estimate = expect(problem.posterior(phi), problem.integrand(problem.theta), BOUNDS[bound], log_q_weight=1.0)
        return estimate.cv_loss

    for leaf in jax.tree.leaves(jax.grad(loss)(problem.phi)):
        np.testing.assert_array_equal(leaf, 0)
