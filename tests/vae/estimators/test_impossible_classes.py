"""A class with the logit -inf: every estimator's gradient is finite, and zero for that class."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.contract_cases import ENTRIES
from vae import distributions as dist
from vae import estimators

LOGITS = np.float32([[0.3, -0.7, -np.inf], [1, 0.2, -0.4]])
WEIGHTS = np.float32([[0.5, -1, 2], [1, 0.3, -0.6]])


def _gradient(name, key):
    entry = estimators.BY_NAME[name]
    estimator = estimators.make(name, num_samples=max(2, entry.min_samples))
    reduce = estimators.mean if "mean" in entry.reductions else estimators.log_mean_exp
    params, state = estimator.init(jax.random.key(0), dist.Categorical(LOGITS))

    def value(logits):
        f = lambda z: jnp.sin(jnp.sum(z * WEIGHTS, axis=(-2, -1)))
        return estimator.estimate(params, state, key, dist.Categorical(logits), f, reduce, log_q_weight=1.0).value

    return jax.grad(value)(LOGITS)


def test_no_estimator_is_nan_at_an_impossible_class():
    names = [name for name, entry in ENTRIES.items() if {"any", "Categorical"} & set(entry.latents)]
    keys = jax.random.split(jax.random.key(1), 50)
    draws = jax.jit(jax.vmap(lambda key: {name: _gradient(name, key) for name in names}))(keys)
    for name, gradient in draws.items():
        assert np.all(np.isfinite(gradient)), name
        assert np.all(gradient[:, 0, 2] == 0), name
        assert np.any(gradient != 0), name
