"""Generalized DReG against quadrature: the noise of q lies on the nodes of a rule, which makes expectations exact."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from vae import distributions as dist
from vae import estimators
from vae.estimators import LogJoint, Reduction, log_mean_exp, mean
from vae.hierarchy import Markov

GDREG = importlib.import_module("vae.estimators.gdreg")
VR_IWAE = Reduction(lambda values: 2 * log_mean_exp(values / 2), name="vr_iwae", shift_equivariant=True)


@functools.cache
def on_nodes(layer, num_samples, layers, order):
    """The family Normal, whose noise is a layer's coordinate of a tensor rule, and the weights of the rule."""
    points, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    axes = num_samples * layers
    mesh = np.reshape(np.meshgrid(*[points] * axes), (layers, num_samples, -1))
    weight = np.prod(np.meshgrid(*[weights] * axes), axis=0).ravel()

    @dist.family
    class OnNodes(dist.Normal):
        noise = staticmethod(lambda key, shape, dtype: jnp.asarray(mesh[layer], dtype).reshape(shape))

    return OnNodes, weight


def expectations(name, problem, reduce, num_samples, layers, order, weights=(1.0, 1.0)):
    """The expected value of an estimate, and of its gradient in each group of the problem's parameters, in float64."""
    c, prior_weight = weights
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), problem.PARAMS)
        families = [on_nodes(layer, num_samples, layers, order) for layer in range(layers)]
        node_weight = families[0][1]

        @jax.jit
        def gradient(params):
            def value(params):
                spread = lambda number: jnp.broadcast_to(number, (len(node_weight), 1))
                q = problem.posterior(params["q"], [family for family, _ in families], spread)
                likelihood = functools.partial(problem.log_likelihood, params["decoder"])
                f = LogJoint(likelihood, problem.prior(params["prior"]), prior_weight)
                estimator = estimators.make(name, num_samples=num_samples)
                return jnp.sum(node_weight * estimator.estimate({}, {}, jax.random.key(0), q, f, reduce, c).value)

            bound, grads = jax.value_and_grad(value)(params)
            return grads | {"value": [bound]}

        return jax.tree.map(np.asarray, gradient(params))


def assert_equal(actual, expected, tolerance):
    for group in expected:
        for got, wanted in zip(actual[group], expected[group], strict=True):
            assert abs(got - wanted) < tolerance, f"{group}: {actual[group]} and not {expected[group]}"


class OneLayer:
    """A nonlinear decoder; the parameters of q and of the prior are a mean and a log-variance."""

    PARAMS = {"q": [0.4, -0.6], "prior": [-0.2, 0.8], "decoder": [1.3, 0.3]}

    @staticmethod
    def posterior(numbers, families, spread):
        return families[0](*map(spread, numbers))

    @staticmethod
    def prior(numbers):
        return dist.Normal(*(number[None] for number in numbers))

    @staticmethod
    def log_likelihood(numbers, z):
        return -jnp.sum(jnp.square(numbers[0] - jnp.sin(z) - numbers[1] * z), axis=-1)


CASE = "importance-weighted"
CASES = {  # the reduction, and the weights of log q(z) and of log p(z)
    "ELBO in a warm-up": (mean, (0.3, 0.3)),
    CASE: (log_mean_exp, (1.0, 1.0)),
    "VR-IWAE with other weights": (VR_IWAE, (0.9, 0.6)),
    "without log q(z)": (log_mean_exp, (0.0, 1.0)),
}


@functools.cache
def _one_layer(name, case):
    reduce, weights = CASES[case]
    return expectations(name, OneLayer, reduce, num_samples=2, layers=1, order=40, weights=weights)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_exact_in_the_prior_in_q_and_in_the_decoder(case):
    assert_equal(_one_layer("gdreg", case), _one_layer("reparam", case), tolerance=2e-3)


def _mistake(change):
    """GDReG whose r_k and r_kk are changed."""
    return lambda reduce, values: change(*GDREG_DERIVATIVES(reduce, values))


GDREG_DERIVATIVES = GDREG.derivatives
MISTAKES = {
    "w in place of w^2": _mistake(lambda r, r_kk: (r, 0 * r_kk)),
    "the wrong sign of dg/dz": _mistake(lambda r, r_kk: (r, -r_kk)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_control_other_weights_of_the_path_are_wrong(mistake, monkeypatch):
    monkeypatch.setattr(GDREG, "derivatives", MISTAKES[mistake])
    wrong, right = _one_layer.__wrapped__("gdreg", CASE), _one_layer("reparam", CASE)
    assert np.min(np.abs(np.subtract(wrong["prior"], right["prior"]))) > 0.05


class TwoLayers:
    """z_2 ~ N(m, e^v), z_1 ~ N(a z_2 + b, 1/2), x ~ N(z_1, 1); q(z_1|x) and q(z_2|z_1) are linear and Gaussian too."""

    X = 1.5
    PARAMS = {"q": [0.7, -0.3, 0.4, 0.2, -0.5], "prior": [0.3, -0.4, 0.8, -0.1], "decoder": []}

    @staticmethod
    def posterior(numbers, families, spread):
        mean_1, log_var_1, slope, offset, log_var_2 = numbers
        given = lambda weights, z: families[1](weights[0] * z + weights[1], jnp.full_like(z, weights[2]))
        first = families[0](spread(mean_1), spread(log_var_1))
        return Markov(first, ((slope, offset, log_var_2),), (given,))

    @staticmethod
    def prior(numbers):
        m, v, a, b = numbers
        given = lambda weights, z: dist.Normal(weights[0] * z + weights[1], jnp.full_like(z, jnp.log(0.5)))
        return Markov(dist.Normal(m[None], v[None]), ((a, b),), (given,), descending=True)

    @staticmethod
    def log_likelihood(numbers, z):
        return dist.Normal(z[0], jnp.zeros_like(z[0])).log_prob(jnp.full_like(z[0], TwoLayers.X))


class AtThePosterior(TwoLayers):
    """The same model, where q is the exact posterior. Every log-weight is log p(x), so the bound is exact."""

    m, v, a, b = TwoLayers.PARAMS["prior"]
    variance_1 = a**2 * np.exp(v) + 0.5  # of z_1 under the prior
    posterior_variance_1 = 1 / (1 / variance_1 + 1)
    posterior_variance_2 = 1 / (np.exp(-v) + a**2 / 0.5)
    PARAMS = TwoLayers.PARAMS | {
        "q": [
            posterior_variance_1 * ((a * m + b) / variance_1 + TwoLayers.X),
            np.log(posterior_variance_1),
            posterior_variance_2 * a / 0.5,
            posterior_variance_2 * (m * np.exp(-v) - a * b / 0.5),
            np.log(posterior_variance_2),
        ]
    }


def _gradient_of_log_p(numbers):
    def log_p(numbers):
        m, v, a, b = numbers
        variance = a**2 * jnp.exp(v) + 0.5 + 1
        return -0.5 * (jnp.square(TwoLayers.X - a * m - b) / variance + jnp.log(variance))

    return jax.grad(log_p)(numbers)


def test_two_layers_have_the_gradient_of_log_p_where_q_is_the_posterior():
    ours = expectations("gdreg", AtThePosterior, log_mean_exp, num_samples=2, layers=2, order=3)["prior"]
    np.testing.assert_allclose(ours, _gradient_of_log_p(TwoLayers.PARAMS["prior"]), rtol=1e-5)


@functools.cache
def _two_layers(name, reduce, num_samples, order):
    return expectations(name, TwoLayers, reduce, num_samples, layers=2, order=order)


@pytest.mark.parametrize(("reduce", "num_samples", "order"), [(mean, 1, 3), (log_mean_exp, 2, 10)])
def test_two_layers_have_the_exact_gradient_elsewhere(reduce, num_samples, order):
    ours, exact = (_two_layers(name, reduce, num_samples, order) for name in ("gdreg", "reparam"))
    assert_equal(ours, exact, tolerance=2e-3)


def test_control_the_path_must_go_through_all_layers_of_the_prior(monkeypatch):
    cut = lambda self, z: self.ordered(
        tuple(self.layer(i, stop_gradient(above)).with_path(layer) for i, layer, above in _with_above(self, z))
    )
    monkeypatch.setattr(Markov, "_with_path", cut)
    wrong = _two_layers.__wrapped__("gdreg", mean, 1, 3)
    assert np.max(np.abs(np.subtract(wrong["prior"], _two_layers("reparam", mean, 1, 3)["prior"]))) > 0.05


def _with_above(prior, z):
    layers = prior.ordered(z)
    return zip(range(len(layers)), layers, (None, *layers[:-1]), strict=True)


Q = dist.Normal(np.float32([[0.4, -0.3], [0.1, 0.7]]), np.float32([[-0.6, 0.2], [0.3, -0.1]]))


def test_with_a_plain_function_it_is_dreg_to_the_bit():
    def value(q, scale, name):
        f = lambda z: -jnp.sum(jnp.square(jnp.sin(scale * z) - 0.4), axis=-1)
        estimator = estimators.make(name, num_samples=3)
        return jnp.sum(estimator.estimate({}, {}, jax.random.key(0), q, f, log_mean_exp, 1.0).value)

    gradient = jax.jit(jax.value_and_grad(value, (0, 1)), static_argnums=2)
    results = [gradient(Q, jnp.float32(1.2), name) for name in ("gdreg", "dreg")]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_prior_without_a_path_is_refused_in_a_sentence():
    mixture = dist.Mixture(jnp.zeros(2), dist.Normal(jnp.zeros((2, 2)), jnp.zeros((2, 2))))
    f = LogJoint(lambda z: jnp.sum(z, axis=-1), mixture)
    refusal = "gdreg needs a prior that can be reparameterized, and Mixture cannot be; choose prior=learned or flow"
    with pytest.raises(ValueError, match=f"^{refusal}, .*; these estimators can: reparam, stl, reparam_antithetic, "):
        estimators.gdreg().estimate({}, {}, jax.random.key(0), Q, f, log_q_weight=1.0)
    entry = estimators.BY_NAME["gdreg"]
    assert entry.refusal(Q, f=dataclasses.replace(f, prior=Q)) is None
    assert "needs p(z) apart from p(x|z)" in entry.refusal(Q, f=f.log_likelihood)
