"""Baselines that are learned or averaged have the values of their formulas: with any others, a score function would be
unbiased too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import estimators
from vae.distributions import Bernoulli
from vae.estimators.parts import moving_average

Q = Bernoulli(np.float32([[0.4, -1.3], [0.2, 0.7], [-0.5, 0.1]]))


def test_a_moving_average_has_weights_that_fall_by_the_decay_and_leaves_out_impossible_values():
    """Four calls with two values each, of which some are -inf; the third call, with no other, does not count."""
    calls = np.float32([[1.0, 3.0], [-np.inf, 5.0], [-np.inf, -np.inf], [4.0, 0.0]])
    state = moving_average.start(Q)
    assert moving_average.read(state, 0.9) == 0
    averages = []
    for values in calls:
        state = moving_average.update(state, jnp.asarray(values[:, None]), 0.9)
        averages.append(float(moving_average.read(state, 0.9)))
    weighted = lambda *means: np.average(means, weights=0.9 ** np.arange(len(means))[::-1])
    np.testing.assert_allclose(averages, [2, weighted(2, 5), weighted(2, 5), weighted(2, 5, 2)], rtol=1e-5)


@pytest.mark.parametrize("name", ["reinforce_ema", "nvil"])
def test_a_constant_has_no_gradient_once_its_average_is_known(name):
    """In the second call the average is the constant, whatever the decay; NVIL's network is still 0."""
    estimator = estimators.make(name, num_samples=2)
    params, state = estimator.init(jax.random.key(0), Q)

    @jax.jit
    def call(state, key):
        def value(q):
            estimate = estimator.estimate(params, state, key, q, lambda z: jnp.full(z.shape[:2], 3.0))
            return jnp.sum(estimate.value), estimate

        gradient, estimate = jax.grad(value, has_aux=True)(Q)
        return jnp.max(jnp.abs(gradient.logits)), estimate

    first, estimate = call(state, jax.random.key(1))
    second, after = call(estimate.state, jax.random.key(2))
    assert first > 0.1
    assert second < 1e-5
    if name == "nvil":  # the mean squared error of the baseline
        np.testing.assert_allclose([estimate.cv_loss, after.cv_loss], [9, 0], atol=1e-4)
