"""Inference from the top down: the densities, and gradients against quadrature and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from vae import distributions as dist
from vae import estimators, evaluate, models, objectives
from vae.estimators import log_mean_exp, mean
from vae.hierarchy import Markov
from vae.models.top_down import product

K = 2  # samples of two layers, with one latent variable each
KEY = jax.random.key(0)
REDUCTIONS = {"reparam": mean, "stl": mean, "leave_one_out": mean, "dreg": log_mean_exp}


@dist.family
class _WithFrozenOutputs(Markov):
    """The mistake: freezing the outputs of the conditionals cuts the path from z_2 into log q(z_1|z_2, x)."""

    def log_prob(self, z):
        layers = self.ordered(z)
        return sum(stop_gradient(q).log_prob(layer) for q, layer in zip(self._layers(layers), layers, strict=True))


@dist.family
class _WithCutPath(Markov):
    """The mistake: z_1 is drawn given a constant z_2."""

    def layer(self, index, before):
        return Markov.layer(self, index, stop_gradient(before))


def _closed_over(q: Markov) -> Markov:
    """The mistake: the weights that a ladder shares with the prior are not those of q, so stop_gradient misses them."""
    [conditional], [(given_x, of_prior)] = q.conditionals, q.weights
    return Markov(q.first, (given_x,), (lambda given_x, z: conditional((given_x, of_prior), z),), descending=True)


# Mistakes, each with an estimator that it makes wrong. The last one is possible only for a ladder.
MISTAKES = {
    "outputs": ("dreg", lambda q: _WithFrozenOutputs(q.first, q.weights, q.conditionals, descending=True)),
    "path": ("stl", lambda q: _WithCutPath(q.first, q.weights, q.conditionals, descending=True)),
    "shared": ("dreg", _closed_over),
}


def _tiny_model(inference: str, posterior: str):
    """A model of two pixels, and parameters at which no gradient is small."""
    sizes = {"latent_dim": (1, 1), "hidden": (), "layer_hidden": (3,), "prior": "learned", "activation": "tanh"}
    model = models.make_vae((2, 1, 1), **sizes, posterior=posterior, inference=inference)
    shapes = jax.eval_shape(model.init, KEY, np.zeros((1, 2, 1, 1), np.float32), KEY)
    generator = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: generator.normal(0, 0.7, leaf.shape).astype(np.float32), shapes)


def _every_choice(values) -> np.ndarray:
    """All choices of a value for each latent variable of each sample: `[2, K, N, 1]`, the top layer first."""
    return np.array(list(itertools.product(values, repeat=2 * K)), np.float32).T.reshape(2, K, -1, 1)


def _gradients(model, params, number, probability, names, mistakes=()):
    """Flat gradients of the expected bound by name: of estimators, of mistakes, and, by the name of a reduction, the
    truth, which differentiates the density. The expectation is a sum over draws, one for each of N copies of x.

    Args:
      number: N.
      probability: function of log q(z) `[K, N]` that returns the probabilities of the draws `[N]`.
      names: the estimators.
      mistakes: names in `MISTAKES`.
    """
    x = np.tile(np.float32([1.0, 0.0]).reshape(1, 2, 1, 1), (number, 1, 1, 1))

    def expected(params, name, reduce, change):
        q = change(model.apply(params, x, method="encode"))
        f = lambda z: objectives.log_joint(model.apply, params, x)(z)
        z = q.sample(KEY, K)
        log_q = q.log_prob(z)
        if name == "density":
            values = reduce(f(z) - log_q) * jnp.exp(jnp.sum(log_q - stop_gradient(log_q), axis=0))
        else:
            values = estimators.make(name, num_samples=K).estimate({}, {}, KEY, q, f, reduce, 1.0).value
        return jnp.sum(stop_gradient(probability(log_q)) * values)

    def gradient(name, reduce, change=lambda q: q):
        leaves = jax.tree.leaves(jax.grad(expected)(params, name, reduce, change))
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    @jax.jit
    def compute():
        gradients = {reduce.name: gradient("density", reduce) for reduce in {REDUCTIONS[name] for name in names}}
        gradients |= {name: gradient(name, REDUCTIONS[name]) for name in names}
        for mistake in mistakes:
            name, change = MISTAKES[mistake]
            gradients[mistake] = gradient(name, REDUCTIONS[name], change)
        return gradients

    return jax.device_get(compute())


def _error(gradients, name):
    """The distance from the truth, relative to the truth."""
    estimator = MISTAKES[name][0] if name in MISTAKES else name
    truth = gradients[REDUCTIONS[estimator].name]
    return np.linalg.norm(gradients[name] - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize(
    ("inference", "number", "mistakes"),
    [
        ("ladder", 8, ["outputs", "path", "shared"]),
        pytest.param("top_down", 16, ["outputs", "path"], marks=pytest.mark.slow),
    ],
)
def test_estimators_of_two_normal_layers_equal_quadrature(inference, number, mistakes, monkeypatch):
    """In all weights, also in those that a ladder shares with the prior."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(number)
    model, params = _tiny_model(inference, "normal")
    noise = _every_choice(nodes)
    # The shape of the first layer's noise is [K, N, 1], and that of the second is [1, K, N, 1].
    monkeypatch.setattr(dist.Normal, "noise", lambda _, key, shape, dtype: jnp.reshape(noise[len(shape) - 3], shape))
    probability = np.prod(_every_choice(masses / masses.sum()), axis=(0, 1))[:, 0]
    names = list(REDUCTIONS)
    gradients = _gradients(model, params, len(probability), lambda log_q: probability, names, mistakes)
    errors = {name: _error(gradients, name) for name in (*names, *mistakes)}
    assert max(errors[name] for name in names) < 1e-3, errors
    assert min(errors[mistake] for mistake in mistakes) > 1e-2, errors


def test_networks_from_the_top_have_the_hidden_layers_between_two_layers():
    """The features are the two pixels, and then three numbers; z_1 is drawn given the pixels and z_2."""
    _, params = _tiny_model("top_down", "normal")
    bottom_up, top, below = (params["params"]["encoder"][name] for name in ("bottom_up_1", "layers_0", "layers_1"))
    assert bottom_up["hidden_0"]["kernel"].shape == (2, 3)
    assert top["parameters"]["kernel"].shape == (3, 2)
    assert below["network"]["hidden_0"]["kernel"].shape == (2 + 1, 3)


@pytest.mark.parametrize("inference", ["top_down", "ladder"])
@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({"data_mean": (0.3, 0.6)}, lambda x: x - np.float32([0.3, 0.6]).reshape(2, 1, 1)),
        ({"likelihood": "poisson"}, np.arcsinh),
    ],
    ids=["data mean", "counts"],
)
def test_the_network_of_the_image_reads_what_that_of_one_layer_reads(options, read, inference):
    sizes = {"latent_dim": (1, 1), "hidden": (), "inference": inference}
    model, plain = (models.make_vae((2, 1, 1), **sizes, **each) for each in (options, {}))
    x = np.float32([3.0, 1.0]).reshape(1, 2, 1, 1)
    params = jax.jit(plain.init)(KEY, x, KEY)
    top = lambda model, x: jax.jit(lambda x: model.apply(params, x, method="encode").first.mean)(x)
    np.testing.assert_allclose(top(model, x), top(plain, read(x)), rtol=1e-5)
    assert np.abs(top(model, x) - top(plain, x)).max() > 1e-3


@pytest.mark.parametrize("inference", ["ladder", pytest.param("top_down", marks=pytest.mark.slow)])
def test_leave_one_out_of_two_layers_of_bits_equals_the_sum_over_all_states(inference, monkeypatch):
    model, params = _tiny_model(inference, "bernoulli")
    bits = _every_choice([0.0, 1.0])
    draw = lambda q, key, number: jnp.reshape(bits[q.logits.ndim - 2], (number, *q.logits.shape))
    monkeypatch.setattr(dist.Bernoulli, "sample", draw)
    probability = lambda log_q: jnp.exp(jnp.sum(log_q, axis=0))
    gradients = _gradients(model, params, bits.shape[2], probability, ["leave_one_out"])
    assert _error(gradients, "leave_one_out") < 1e-4


_SLOW = [pytest.param(inference, marks=pytest.mark.slow) for inference in ("bottom_up", "top_down")]


@pytest.mark.parametrize("inference", ["ladder", *_SLOW])
def test_the_rates_of_the_layers_are_means_of_their_divergences_and_add_up_to_the_rate(inference):
    model, params = _tiny_model(inference, "normal")
    x = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32).reshape(2, 2, 1, 1)
    number = 4000

    @jax.jit
    def compute():
        q, p = model.apply(params, x, method="encode"), model.apply(params, method="prior_distribution")
        above = q.sample(KEY, number)[1]
        exact = jnp.stack([jnp.mean(dist.kl(q.layer(1, above), p.layer(1, above)), axis=0), dist.kl(q.first, p.first)])
        rates = evaluate.rate_by_layer(model.apply, params, x, KEY, number, chunk_size=300)  # not a divisor
        return rates, exact.T, evaluate.rate_distortion(model.apply, params, x, KEY, number, chunk_size=100)["rate"]

    rates, exact, rate = compute()
    np.testing.assert_allclose(rates.sum(axis=1), rate, rtol=1e-3)
    close = np.abs(rates - exact) < 0.1
    assert np.all(close) == (inference != "bottom_up")


PAIRS = {
    "Normal": [dist.Normal(np.array([m]), np.array([v])) for m, v in ((0.3, -1.0), (-0.5, 0.7))],
    "Bernoulli": [dist.Bernoulli(np.array([logit])) for logit in (0.3, -1.2)],
    "Categorical": [dist.Categorical(np.array([logits])) for logits in ((0.3, 0.1, -1.0), (0.5, 0.0, 0.7))],
}


@pytest.mark.parametrize("family", PAIRS)
def test_a_product_is_proportional_to_both_densities_and_has_the_mass_one(family):
    q, p = PAIRS[family]
    step = 0.01 if family == "Normal" else 1.0
    z = {"Normal": np.arange(-8, 8, step)[:, None], "Bernoulli": np.eye(2)[:, :1], "Categorical": np.eye(3)[:, None]}
    densities = jax.jit(lambda z: [jnp.exp(d.log_prob(z)) for d in (q, p, product(q, p))])
    of_q, of_p, of_product = np.asarray(densities(np.float32(z[family])), np.float64)
    density = of_q * of_p
    np.testing.assert_allclose(of_product, density / density.sum() / step, atol=1e-5)


def test_a_layer_of_a_ladder_is_the_product_with_the_prior_of_the_layer():
    model, params = _tiny_model("ladder", "normal")
    x = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32).reshape(2, 2, 1, 1)
    above = np.array([[[-1.0], [0.5]]], np.float32)  # [K, B, 1]

    @jax.jit
    def layers():
        q, p = model.apply(params, x, method="encode"), model.apply(params, method="prior_distribution")
        return p.layer(1, above), q.layer(1, above), q.weights[0][0].mean

    generative, ours, mean_of_q = jax.device_get(layers())
    precision = np.exp(-ours.log_var) - np.exp(-generative.log_var)  # of the density that depends on x
    assert np.all(precision > 0)
    mean_given_x = (ours.mean * np.exp(-ours.log_var) - generative.mean * np.exp(-generative.log_var)) / precision
    np.testing.assert_allclose(mean_given_x[0], mean_of_q, rtol=1e-4)


@pytest.mark.parametrize("inference", ["top_down", "ladder"])
def test_the_layers_of_a_sample_are_ordered_from_the_image_upwards(inference):
    model = models.make_vae((4, 4, 1), latent_dim=(4, 3, 2), hidden=(5,), layer_hidden=(6,), inference=inference)

    def shapes():
        x = jnp.zeros((3, 4, 4, 1))
        params = model.init(KEY, x, KEY)
        z = model.apply(params, x, method="encode").sample(KEY, 7)
        return z, objectives.log_joint(model.apply, params, x)(z)

    z, log_joint = jax.eval_shape(shapes)
    assert [layer.shape for layer in z] == [(7, 3, 4), (7, 3, 3), (7, 3, 2)]
    assert log_joint.shape == (7, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"inference": "sideways"}, "there is no inference 'sideways'; choose one of bottom_up, top_down, ladder"),
        ({"inference": "ladder", "latent_dim": 2}, "inference=ladder needs several stochastic layers"),
        ({"inference": "top_down", "posterior": "normal+normal"}, "inference=top_down needs several stochastic layers"),
        (
            {"inference": "ladder", "posterior": "laplace"},
            "posterior=laplace has no product.*choose inference=top_down",
        ),
        ({"inference": "ladder", "posterior": "low_rank"}, "posterior=low_rank has no product"),
        ({"inference": "ladder", "posterior": "iaf"}, "posterior=iaf has no product"),
    ],
)
def test_what_has_no_such_inference_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.make_vae((4, 4, 1), **{"latent_dim": (3, 2)} | options)
