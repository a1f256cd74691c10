"""Estimators for several layers of bits, at once and by `layerwise`, against the sum over all states.

The posterior BITS has two layers of two bits, where a small network computes q(z_2 | z_1), and 16 states. The posterior
DEEP has a third layer of one bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import diagnostics, estimators
from vae import distributions as dist
from vae.estimators import Estimator, log_mean_exp, mean
from vae.estimators.layerwise import layerwise
from vae.hierarchy import Markov

BITS = {
    "a": jnp.array([0.4, -0.9]),
    "w": (jnp.array([[1.1, -0.6], [0.3, 0.9]]), jnp.array([-0.2, 0.5])),
    "theta": jnp.array([0.8, -0.5, 0.6, 1.2]),
}


DEEP = BITS | {
    "v": (jnp.array([[0.9], [-1.2]]), jnp.array([0.3])),
    "theta": jnp.array([0.8, -0.5, 0.6, 1.2, 0.9]),
}


def _hard_conditional(weights, z):
    return dist.Bernoulli(jnp.tanh(z @ weights[0]) + weights[1])


def _hard_posterior(params):
    weights = tuple(params[name] for name in ("w", "v") if name in params)
    return Markov(dist.Bernoulli(params["a"]), weights, (_hard_conditional,) * len(weights))


def _hard_cost(params):
    """Returns f, where f(z) - log q(z) is the log-weight."""

    def f(z):
        s = jnp.concatenate(z, axis=-1) @ params["theta"]
        return jnp.sin(2 * s) - 0.3 * s**2

    return f


@functools.cache
def _exact_bits(deep=False):
    tree = DEEP if deep else BITS
    width = len(tree["theta"])
    states = np.indices((2,) * width).reshape(width, -1).T.astype(np.float32)

    def value(params):
        q, z = _hard_posterior(params), tuple(np.split(states, [2, 4] if deep else [2], axis=1))
        return jnp.sum(jnp.exp(q.log_prob(z)) * (_hard_cost(params)(z) - q.log_prob(z)))

    return jax.jit(jax.value_and_grad(value))(tree)


# Estimators that accept all layers at once, and estimators that layerwise can wrap: they accept bits and do not
# differentiate f.
WHOLE = [
    name for name, entry in estimators.BY_NAME.items() if not entry.refusal(_hard_posterior(BITS), log_q_weight=1.0)
]
BY_LAYER = [
    name
    for name, entry in estimators.BY_NAME.items()
    if not entry.refusal(dist.Bernoulli) and not entry.differentiates_f
]


def _hard_errors(estimator, draws, deep=False):
    """Returns the |z| of the value and of every gradient coordinate, and the largest relative standard error.

    A relative standard error is the norm of the standard errors divided by the norm of the exact answer. There is one
    for the value and one for each group of parameters.
    """
    tree = DEEP if deep else BITS
    params, state = jax.jit(estimator.init)(jax.random.key(0), _hard_posterior(tree), None)

    def run(tree, key):
        q = _hard_posterior(tree)
        return estimator.estimate(params, state, key, q, _hard_cost(tree), log_q_weight=1.0).value

    keys = jax.random.split(jax.random.key(1), draws)
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(run), in_axes=(None, 0)))(tree, keys)
    flat = lambda tree, lead: np.concatenate([np.reshape(leaf, (*lead, -1)) for leaf in jax.tree.leaves(tree)], -1)
    value, truth = _exact_bits(deep)
    z, relative = [], []
    for ours, exact in ((values, value), *((grads[group], truth[group]) for group in truth)):
        ours, exact = np.float64(flat(ours, (draws,))), np.float64(flat(exact, ()))
        error, norm = ours.std(0) / np.sqrt(draws), np.linalg.norm(exact)
        z.append(np.abs(ours.mean(0) - exact) / np.hypot(error, 1e-5 * norm))
        relative.append(np.linalg.norm(error) / norm)
    return np.concatenate(z), max(relative)


FAST = ("leave_one_out", "disarm", "bitflip")


def _slow_unless_fast(names):
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in names]


def _draws(name):
    return 2**17 if name in FAST else 2**18


@pytest.mark.parametrize("name", _slow_unless_fast(WHOLE))
def test_gradients_of_all_hard_layers_at_once_are_unbiased(name):
    z, stderr = _hard_errors(estimators.BY_NAME[name].make(), _draws(name))
    assert stderr < 0.01
    assert np.max(z) < 4.5


@pytest.mark.parametrize("name", _slow_unless_fast(BY_LAYER))
def test_layerwise_gradients_of_hard_layers_are_unbiased(name):
    z, stderr = _hard_errors(estimators.make(name, by_layer=True), _draws(name))
    assert stderr < 0.01
    assert np.max(z) < 4.5


@pytest.mark.parametrize("name", ["leave_one_out", "disarm"])
def test_layerwise_gradients_have_no_noise_where_q_is_the_posterior(name):
    """Where f is log q, the log-weight is 0 at every sample, and so is a signal made of differences."""
    estimator = estimators.make(name, by_layer=True)

    def value(tree):
        q = _hard_posterior(tree)
        f = jax.lax.stop_gradient(q).log_prob
        return estimator.estimate(((), ()), ((), ()), jax.random.key(0), q, f, log_q_weight=1.0).value

    gradients = jax.device_get(jax.jit(jax.grad(value))(BITS))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) < 1e-6


def test_every_layer_trains_its_own_baseline():
    estimator = estimators.make("nvil", by_layer=True)
    q = _hard_posterior(BITS)
    params, state = jax.jit(estimator.init)(jax.random.key(0), q, None)

    def loss(params):
        return estimator.estimate(params, state, jax.random.key(1), q, _hard_cost(BITS), log_q_weight=1.0).cv_loss

    of_layers = jax.device_get(jax.jit(jax.grad(loss))(params))
    assert [any(np.any(leaf != 0) for leaf in jax.tree.leaves(layer)) for layer in of_layers] == [True, True]


@pytest.mark.parametrize("name", FAST)
def test_layerwise_gradients_of_three_layers_are_unbiased_at_linear_cost(name):
    """The second layer has a layer below, whose draw its samples share, and a layer above, drawn for each sample."""
    estimator = estimators.make(name, num_samples=2, by_layer=True)
    z, stderr = _hard_errors(estimator, _draws(name), deep=True)
    assert stderr < 0.01
    assert np.max(z) < 4.5

    q = _hard_posterior(DEEP)
    params, state = jax.jit(estimator.init)(jax.random.key(0), q, None)
    bound = lambda weights, data, expect: expect(q, _hard_cost(DEEP), log_q_weight=1.0)
    evaluations_per_layer = 4 if name == "bitflip" else 2
    found = diagnostics.evaluations(bound, estimator, jax.random.key(1), {}, learned=params, counted=state)
    assert found == 3 * evaluations_per_layer


def test_samples_of_a_layer_share_the_noise_of_the_layers_below():
    steep = lambda params, z: _hard_cost(params)(z) + 9 * z[0][..., 0]

    def spread(by_layer):
        estimator = estimators.make("leave_one_out", num_samples=2, by_layer=by_layer)
        params, state = jax.jit(estimator.init)(jax.random.key(0), _hard_posterior(BITS), None)

        def value(tree, key):
            f = lambda z: steep(tree, z)
            return estimator.estimate(params, state, key, _hard_posterior(tree), f, log_q_weight=1.0).value

        draws = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(BITS, jax.random.split(jax.random.key(2), 4000))
        return sum(np.sum(np.var(leaf, axis=0)) for leaf in jax.tree.leaves(jax.device_get(draws["w"])))

    assert spread(by_layer=True) < 0.5 * spread(by_layer=False)


def test_a_single_layer_is_refused():
    q = dist.Bernoulli(jnp.zeros(2))
    estimator = estimators.make("leave_one_out", by_layer=True)
    with pytest.raises(ValueError, match="several stochastic layers .Markov., got Bernoulli; drop layerwise"):
        estimator.estimate({}, {}, jax.random.key(0), q, lambda z: jnp.sum(z, axis=-1), mean)


def test_other_reductions_than_the_mean_are_refused():
    q = _hard_posterior(BITS)
    estimator = estimators.make("leave_one_out", by_layer=True)
    with pytest.raises(ValueError, match="supports only the reduction mean, got log_mean_exp; use reduce=mean"):
        estimator.estimate({}, {}, jax.random.key(0), q, _hard_cost(BITS), log_mean_exp)


@pytest.mark.parametrize("name", [name for name, entry in estimators.BY_NAME.items() if entry.differentiates_f])
def test_estimators_that_differentiate_f_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} cannot work layer by layer"):
        estimators.make(name, by_layer=True)


def test_a_layer_above_that_is_not_drawn_anew_gives_a_bias():
    """The mistake is a fixed draw of the layers above, which then does not depend on the samples of the layer."""
    q = _hard_posterior(BITS)
    _, fixed = jax.jit(q.sample, static_argnums=1)(jax.random.key(3), 1)

    @dist.family
    class _Frozen(Markov):
        def continued(self, key, layers):
            return (*layers, jnp.broadcast_to(fixed, layers[0].shape))[:2]

    honest = layerwise(estimators.leave_one_out(num_samples=2))

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        frozen = _Frozen(q.first, q.weights, q.conditionals)
        return honest.estimate(params, state, key, frozen, f, reduce, log_q_weight, context)

    wrong = Estimator(honest.init, estimate)
    assert np.max(_hard_errors(honest, draws=2**15)[0]) < 4.5
    assert np.max(_hard_errors(wrong, draws=2**15)[0]) > 4.5


def test_estimators_of_single_layers_are_refused_with_a_hint():
    refused = [name for name in estimators.fitting(dist.Bernoulli, log_q_weight=1.0) if name not in WHOLE]
    assert "muprop" in refused
    for name in refused:  # by layer, an estimator that differentiates f is refused too
        hint = "" if estimators.BY_NAME[name].differentiates_f else ", except with its option by_layer=true"
        with pytest.raises(ValueError, match=f"{name} cannot .* Markov latents{hint}; these .* can: .*leave_one_out"):
            estimators.BY_NAME[name].make().estimate({}, {}, jax.random.key(0), _hard_posterior(BITS), _hard_cost(BITS))
