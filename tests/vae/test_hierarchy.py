"""Two stochastic layers: sticking the landing and DReG must freeze weights, not outputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from vae import diagnostics, estimators, models
from vae import distributions as dist
from vae.estimators import integrand, layerwise, log_mean_exp, mean, scale_cotangent
from vae.estimators.dreg import path_weight
from vae.hierarchy import Markov

A, W = jnp.array([0.4, -0.3]), jnp.array([0.7, 0.1])  # z_1: mean, log_var; z_2 | z_1: slope and offset of the mean


def _conditional(weights, z):
    return dist.Normal(weights[0] * jnp.tanh(z) + weights[1], jnp.full_like(z, -1.0))


def _posterior(params):
    first = dist.Normal(params["a"][:1], params["a"][1:])
    return Markov(first, (params["w"],), (_conditional,))


def _log_joint(theta, z):
    z1, z2 = z
    terms = -0.5 * z2**2 - 0.5 * (z1 - theta * z2) ** 2 - 0.5 * (1.3 - jnp.tanh(z1) - z1) ** 2
    return jnp.sum(terms, axis=-1)


PARAMS = {"a": A, "w": W, "theta": jnp.array(0.8)}


def _value(params, estimator, reduce, key):
    q = _posterior(params)
    f = lambda z: _log_joint(params["theta"], z)
    return estimator.estimate({}, {}, key, q, f, reduce, 1.0).value


def _moments(estimator, reduce, draws=400_000, chunk=10_000):
    gradient = jax.jit(jax.vmap(lambda key: jax.grad(_value)(PARAMS, estimator, reduce, key)))
    flat = [
        np.concatenate([np.reshape(leaf, (chunk, -1)) for leaf in jax.tree.leaves(gradient(keys))], axis=1)
        for keys in jax.random.split(jax.random.key(0), (draws // chunk, chunk))
    ]
    flat = np.concatenate(flat).astype(np.float64)
    return flat.mean(0), flat.std(0) / np.sqrt(draws)


def _dreg_with_frozen_outputs(num_samples):
    """The mistake: DReG whose log q has the conditional's outputs detached, which cuts the path from z_1 into it."""
    dreg = estimators.BY_NAME["dreg"].make(num_samples=num_samples)
    detached = lambda weights, z1: stop_gradient(_conditional(weights, z1))

    def estimate(params, state, key, q, f, reduce, log_q_weight):
        cut = dataclasses.replace(stop_gradient(q), conditionals=(detached,))
        z = q.rsample(key, num_samples)
        weights = path_weight(reduce, stop_gradient(integrand(f, q, log_q_weight)(z)))
        value = reduce(integrand(f, cut, log_q_weight)(scale_cotangent(z, weights)))
        return estimators.Estimate(value, jnp.zeros(()), state)

    return estimators.Estimator(dreg.init, estimate)


def test_sticking_the_landing_is_unbiased_for_two_layers():
    ours, error = _moments(estimators.BY_NAME["stl"].make(num_samples=2), mean)
    plain, plain_error = _moments(estimators.BY_NAME["reparam"].make(num_samples=2), mean)
    assert np.max(np.abs(ours - plain) / np.hypot(error, plain_error)) < 4.5


def test_dreg_is_unbiased_for_two_layers():
    ours, error = _moments(estimators.BY_NAME["dreg"].make(num_samples=2), log_mean_exp)
    plain, plain_error = _moments(estimators.BY_NAME["reparam"].make(num_samples=2), log_mean_exp)
    assert np.max(np.abs(ours - plain) / np.hypot(error, plain_error)) < 4.5
    assert np.linalg.norm(np.hypot(error, plain_error)) < 0.01 * np.linalg.norm(plain)
    wrong, wrong_error = _moments(_dreg_with_frozen_outputs(2), log_mean_exp)
    assert np.max(np.abs(wrong - plain) / np.hypot(wrong_error, plain_error)) > 4.5


def test_sample_and_log_prob_agree_with_the_layers():
    q = _posterior(PARAMS)
    z1, z2 = q.sample(jax.random.key(1), 5)
    expected = q.first.log_prob(z1) + _conditional(W, z1).log_prob(z2)
    np.testing.assert_allclose(q.log_prob((z1, z2)), expected, rtol=1e-6)
    downwards = dataclasses.replace(q, descending=True)
    np.testing.assert_allclose(downwards.log_prob((z2, z1)), expected, rtol=1e-6)
    assert [leaf.shape for leaf in downwards.sample(jax.random.key(1), 5)] == [(5, 1), (5, 1)]


def test_layers_without_rsample_are_refused_by_pathwise_estimators():
    q = Markov(dist.Bernoulli(jnp.zeros((2, 3))), (), ())
    assert not hasattr(q, "rsample")
    estimator = estimators.BY_NAME["reparam"].make()
    with pytest.raises(ValueError, match="leave_one_out"):
        estimator.estimate({}, {}, jax.random.key(0), q, lambda z: q.log_prob(z))


def test_a_network_of_two_layers_trains_every_weight():
    model = models.make_vae((4, 4, 1), latent_dim=(3, 2), hidden=(8,), layer_hidden=(5,))
    key, x = jax.random.key(0), jnp.ones((6, 4, 4, 1))
    params = model.init(key, x, key)
    q = model.apply(params, x, method="encode")
    z = q.rsample(key, 7)
    assert [leaf.shape for leaf in z] == [(7, 6, 3), (7, 6, 2)]

    def loss(params):
        q = model.apply(params, x, method="encode")
        z = q.rsample(key, 7)
        return jnp.mean(model.apply(params, x, z, method="log_joint") - q.log_prob(z))

    norms = jax.tree.map(jnp.linalg.norm, jax.grad(loss)(params))
    assert all(0 < norm < jnp.inf for norm in jax.tree.leaves(norms)), norms


# Hard layers: two of two bits each, z_2 given z_1 by a small network, 16 states in all; and a third of one bit.

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


def _hard_log_joint(params):
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
        return jnp.sum(jnp.exp(q.log_prob(z)) * (_hard_log_joint(params)(z) - q.log_prob(z)))

    return jax.value_and_grad(value)(tree)


def _fits(entry, q) -> bool:
    return entry.refusal(q, mean, log_q_weight=1.0) is None


_WHOLE = [name for name, entry in estimators.BY_NAME.items() if _fits(entry, _hard_posterior(BITS))]
_BY_LAYER = [
    name
    for name, entry in estimators.BY_NAME.items()
    if name not in _WHOLE and _fits(entry, dist.Bernoulli) and not entry.differentiates_f
]


def _hard_errors(estimator, draws=2**18, deep=False):
    """Of the value and each gradient, in standard errors; and the standard errors relative to the exact norm, of the
    value or the group of parameters where they are largest."""
    tree = DEEP if deep else BITS
    params, state = estimator.init(jax.random.key(0), _hard_posterior(tree), None)

    def run(tree, key):
        q = _hard_posterior(tree)
        return estimator.estimate(params, state, key, q, _hard_log_joint(tree), mean, 1.0).value

    keys = jax.random.split(jax.random.key(1), draws)
    found = jax.jit(jax.vmap(jax.value_and_grad(run), in_axes=(None, 0)))(tree, keys)
    flat = lambda tree, lead: np.concatenate([np.reshape(leaf, (*lead, -1)) for leaf in jax.tree.leaves(tree)], -1)
    (values, grads), (value, truth) = found, _exact_bits(deep)
    z, relative = [], []
    for ours, exact in ((values, value), *((grads[group], truth[group]) for group in truth)):
        ours, exact = np.float64(flat(ours, (draws,))), np.float64(flat(exact, ()))
        error, norm = ours.std(0) / np.sqrt(draws), np.linalg.norm(exact)
        z.append(np.abs(ours.mean(0) - exact) / np.hypot(error, 1e-5 * norm))
        relative.append(np.linalg.norm(error) / norm)
    return np.concatenate(z), max(relative)


# One that takes all layers at once, and two that take one after the other; the rest of them is slow.
_FAST = ("leave_one_out", "disarm", "bitflip")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in _FAST else [pytest.mark.slow]) for n in [*_WHOLE, *_BY_LAYER]]
)
def test_hard_layers_are_unbiased_whole_or_one_by_one(name):
    z, stderr = _hard_errors(estimators.make(name, by_layer=name in _BY_LAYER))
    assert stderr < 0.01
    assert np.max(z) < 4.5


@pytest.mark.parametrize("name", ["leave_one_out", pytest.param("nvil", marks=pytest.mark.slow)])
def test_what_could_be_taken_at_once_is_unbiased_by_layer(name):
    z, stderr = _hard_errors(estimators.make(name, by_layer=True))
    assert stderr < 0.01
    assert np.max(z) < 4.5


@pytest.mark.parametrize("name", ["leave_one_out", "disarm", "bitflip"])
def test_three_layers_are_unbiased_at_linear_cost(name):
    """The second has layers below it, which its samples share, and one above, which follows each of them."""
    estimator = estimators.make(name, num_samples=2, by_layer=True)
    z, stderr = _hard_errors(estimator, deep=True)
    assert stderr < 0.01
    assert np.max(z) < 4.5

    q, f = _hard_posterior(DEEP), _hard_log_joint(DEEP)
    params, state = estimator.init(jax.random.key(0), q, None)
    value = lambda watch, key: estimator.estimate(params, state, key, q, watch(f), mean, 1.0).value
    each = 4 if name == "bitflip" else 2  # of a layer; 2^3 and 4^3 if samples of a layer had samples of the next
    assert diagnostics.evaluations(value, jax.random.key(1)) == 3 * each


def test_by_layer_the_samples_of_a_layer_share_the_noise_of_those_below():
    steep = lambda params, z: _hard_log_joint(params)(z) + 9 * z[0][..., 0]

    def spread(by_layer):
        estimator = estimators.make("leave_one_out", num_samples=2, by_layer=by_layer)
        params, state = estimator.init(jax.random.key(0), _hard_posterior(BITS), None)

        def value(tree, key):
            f = lambda z: steep(tree, z)
            return estimator.estimate(params, state, key, _hard_posterior(tree), f, mean, 1.0).value

        draws = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(BITS, jax.random.split(jax.random.key(2), 4000))
        return sum(np.sum(np.var(leaf, axis=0)) for leaf in jax.tree.leaves(draws["w"]))

    assert spread(by_layer=True) < 0.5 * spread(by_layer=False)


def test_layerwise_refuses_a_single_layer_and_bounds_of_several_samples():
    estimator = estimators.make("leave_one_out", by_layer=True)
    single, several = dist.Bernoulli(jnp.zeros(2)), _hard_posterior(BITS)
    with pytest.raises(ValueError, match="layerwise needs a posterior of several stochastic layers"):
        estimator.init(jax.random.key(0), single)
    with pytest.raises(ValueError, match="layerwise estimators are for the mean, and the reduction is log_mean_exp"):
        estimator.estimate({}, {}, jax.random.key(0), several, several.log_prob, log_mean_exp)


def test_a_layer_above_that_is_not_drawn_anew_is_caught():
    """The mistake: one draw of the layers above for all samples of a layer, which then do not follow it."""
    q = _hard_posterior(BITS)
    _, fixed = q.sample(jax.random.key(3), 1)

    @dist.family
    class _Frozen(Markov):
        def continued(self, key, layers):
            return (*layers, jnp.broadcast_to(fixed, layers[0].shape))[:2]

    inner = estimators.BY_NAME["leave_one_out"].make(num_samples=2)
    honest = layerwise(inner)
    wrong = estimators.Estimator(
        honest.init,
        lambda params, state, key, q, f, reduce, log_q_weight: honest.estimate(
            params, state, key, _Frozen(q.first, q.weights, q.conditionals), f, reduce, log_q_weight
        ),
    )
    assert np.max(_hard_errors(honest)[0]) < 4.5
    assert np.max(_hard_errors(wrong)[0]) > 4.5


def test_estimators_that_differentiate_are_refused_above_hard_layers():
    able = {*_WHOLE, *_BY_LAYER}
    refused = [name for name, e in estimators.BY_NAME.items() if _fits(e, dist.Bernoulli) and name not in able]
    assert "muprop" in refused
    for name in refused:
        with pytest.raises(
            ValueError, match=f"{name} cannot .* Markov latents; .*these estimators can: .*leave_one_out"
        ):
            estimators.make(name).init(jax.random.key(0), _hard_posterior(BITS))
        if estimators.BY_NAME[name].differentiates_f:
            with pytest.raises(ValueError, match=f"{name} cannot work layer by layer"):
                estimators.make(name, by_layer=True)
