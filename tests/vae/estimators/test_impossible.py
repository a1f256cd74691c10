"""Impossible classes, whose logit is -inf, and impossible states, whose log p(x, z) is -inf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import ENTRIES
from tests.helpers.oracle import MAX_Z, REDUCE, make_estimator
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, Reduction, log_mean_exp

MASKED = Categorical(jnp.array([[[0.3, -0.7, -jnp.inf], [1.0, 0.2, -0.4]]]))
BITS = Bernoulli(jnp.array([[0.4, -0.3]]))
CLASSES = Categorical(jnp.array([[[0.3, -0.7], [0.5, 0.2]]]))
# The mean of the weights, without a logarithm. Its expectation is finite although some states have the weight 0.
mean_weight = Reduction(lambda values: jnp.mean(jnp.exp(values), axis=0), name="mean_weight")


FOR_CLASSES = [
    name for name, entry in ENTRIES.items() if not entry.refusal(Categorical, REDUCE[entry.reductions[0]], 1.0)
]


def _draws(name, q, f, reduce, bound, log_q_weight, draws):
    """Values `[draws]` and gradients `[draws, parameters]`, in float64."""
    estimator, _ = make_estimator(name, bound)

    def value_and_gradient(key):
        params, state = estimator.init(key, q)
        value = lambda q: estimator.estimate(params, state, key, q, f, reduce, log_q_weight).value[0]
        value, gradient = jax.value_and_grad(value)(q)
        return value, jnp.ravel(gradient.logits)

    keys = jax.random.split(jax.random.key(3), draws)
    return map(np.float64, jax.jit(jax.vmap(value_and_gradient))(keys))


def _exact(q, f, reduce, log_q_weight, num_samples):
    exact = BY_NAME["exact"].make(num_samples=num_samples)
    value = lambda q: exact.estimate({}, {}, None, q, f, reduce, log_q_weight).value[0]
    return np.ravel(jax.jit(jax.grad(value))(q).logits)


@pytest.mark.parametrize("name", FOR_CLASSES)
def test_an_impossible_class_has_the_gradient_zero_and_the_others_are_right(name):
    f = lambda z: 3 * jnp.sum(jnp.sin(jnp.cumsum(z, axis=-1) + z[..., ::-1, :]), axis=(-1, -2)) - 10
    bound = BY_NAME[name].reductions[0]
    _, gradients = _draws(name, MASKED, f, REDUCE[bound], bound, 1.0, draws=2**13)
    assert np.all(np.isfinite(gradients))
    assert not np.any(gradients[:, 2])
    if not BY_NAME[name].biased:
        exact = _exact(MASKED, f, REDUCE[bound], 1.0, num_samples=2)
        stderr = np.std(gradients, axis=0) / np.sqrt(len(gradients))
        assert np.max(stderr) < 0.1 * np.linalg.norm(exact)
        assert np.max(np.abs(np.mean(gradients, axis=0) - exact) / (stderr + 1e-5)) < MAX_Z


def _impossible_if_both(z):
    """-inf if both bits are 1, or both classes are the first."""
    both = z[..., 0] * z[..., 1] if z.ndim == 3 else z[..., 0, 0] * z[..., 1, 0]
    return jnp.where(both == 1, -jnp.inf, jnp.sum(jnp.sin(z), axis=tuple(range(2, z.ndim))))


def _fit(q):
    others = ("exact", "gumbel_softmax")  # the exact bound is -inf, and a relaxed sample is no state
    return [name for name, entry in ENTRIES.items() if not entry.refusal(q, log_mean_exp, 1.0) and name not in others]


@pytest.mark.parametrize("name", sorted({*_fit(BITS), *_fit(CLASSES)}))
def test_gradients_are_finite_where_the_weighted_bound_is(name):
    """The bound of two samples is -inf only if both samples are impossible."""
    q = BITS if name in _fit(BITS) else CLASSES
    values, gradients = _draws(name, q, _impossible_if_both, log_mean_exp, "log_mean_exp", 1.0, draws=256)
    possible = np.isfinite(values)
    assert 0.5 < np.mean(possible) < 1
    assert np.all(np.isfinite(gradients[possible]))


@pytest.mark.parametrize("name", ["reinforce", "reinforce_ema", "nvil", "leave_one_out", "arm", "disarm", "disarm_iw"])
def test_gradients_of_the_mean_weight_are_unbiased_with_impossible_states(name):
    q = CLASSES if name == "disarm_iw" else BITS
    _, gradients = _draws(name, q, _impossible_if_both, mean_weight, "log_mean_exp", 0.0, draws=2**15)
    exact = _exact(q, _impossible_if_both, mean_weight, 0.0, num_samples=2)
    stderr = np.std(gradients, axis=0) / np.sqrt(len(gradients))
    assert np.max(stderr) < 0.05 * np.linalg.norm(exact)
    assert np.max(np.abs(np.mean(gradients, axis=0) - exact) / stderr) < MAX_Z


@pytest.mark.parametrize("name", ["reinforce_ema", "nvil"])
def test_an_impossible_state_does_not_stay_in_a_moving_average(name):
    estimator, _ = make_estimator(name, "log_mean_exp")
    params, state = estimator.init(jax.random.key(0), BITS)

    def loss(params, key):
        estimate = estimator.estimate(params, state, key, BITS, _impossible_if_both, log_mean_exp, 1.0)
        return estimate.cv_loss, estimate

    after = jax.jit(lambda key: jax.grad(loss, has_aux=True)(params, key))
    grads, estimates = jax.vmap(after)(jax.random.split(jax.random.key(0), 64))
    assert np.any(np.isneginf(estimates.value))  # both samples were impossible
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((estimates.state, estimates.cv_loss, grads)))
