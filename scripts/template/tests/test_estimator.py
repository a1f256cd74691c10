"""Compares the mean gradient with the exact gradient, and checks that a wrong gradient would be noticed."""

import pytest
import vae

import my_estimator  # noqa: F401  (adds the estimator to the table)


@pytest.mark.parametrize("family", ["Normal", "Bernoulli"])
def test_the_mean_gradient_is_the_exact_gradient_and_a_wrong_gradient_is_noticed(family):
    certified = vae.testing.certify(vae.estimators.make("my_estimator", num_samples=2), family)
    assert certified, certified
    assert not any(certified.slips.values()), certified
