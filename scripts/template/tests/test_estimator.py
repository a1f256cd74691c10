"""Compares the mean gradient with the exact gradient, and checks that a wrong gradient would be noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vae import distributions, estimators

import my_estimator  # noqa: F401  (adds the estimator to the table)

DRAWS = 2**16
PARAMETERS = {
    "Normal": {"mean": jnp.array([0.4, -0.3]), "log_var": jnp.array([-0.5, 0.2])},
    "Bernoulli": {"logits": jnp.array([0.4, -0.7, 0.1])},
}


def f(z):
    return jnp.sum(jnp.sin(z + 0.3) * z, axis=-1)  # [K]


def gradient(estimator, family, key, bug=0.0):
    """One gradient of E[f(z) - log q(z)] in the parameters of q, plus `bug`."""

    def value(parameters):
        q = getattr(distributions, family)(**parameters)
        estimate = estimator.estimate({}, {}, key, q, f, log_q_weight=1.0)
        return estimate.value + bug * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(parameters))

    return jax.grad(value)(PARAMETERS[family])


def largest_deviation(family, bug=0.0):
    """The largest deviation of the mean gradient from the exact one, in standard errors of the mean."""
    estimator = estimators.make("my_estimator", num_samples=2)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draws = jax.jit(jax.vmap(lambda key: gradient(estimator, family, key, bug)))(keys)
    exact = gradient(estimators.make("exact"), family, keys[0])
    deviations = []
    for drawn, truth in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        standard_error = np.std(drawn, axis=0) / np.sqrt(DRAWS)
        assert np.linalg.norm(standard_error) < 0.05 * np.linalg.norm(truth)
        deviations.append(np.max(np.abs(np.mean(drawn, axis=0) - truth) / standard_error))
    return max(deviations)


@pytest.mark.parametrize("family", PARAMETERS)
def test_the_mean_gradient_is_the_exact_gradient(family):
    assert largest_deviation(family) < 4.5


@pytest.mark.parametrize("family", PARAMETERS)
def test_a_wrong_gradient_is_noticed(family):
    assert largest_deviation(family, bug=0.2) > 4.5
