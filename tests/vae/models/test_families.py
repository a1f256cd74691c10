"""Posteriors, priors and likelihoods, by the numbers that come out of them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from tests.helpers.pairs import estimator_for
from tests.helpers.random_models import float64, images, parameters
from vae import distributions as dist
from vae import models, objectives
from vae.estimators import BY_NAME, bind

K, B, D = 3, 2, 4


def _with_four_categories(name):
    """The posterior of that name, with four categories where it has categories."""
    return models.POSTERIORS[name](**({"categories": 4} if name in ("categorical", "concrete") else {}))


class _Made(nn.Module):
    """The distribution with these parameters, made inside of a module, as a flow needs."""

    posterior: models.Posterior

    @nn.compact
    def __call__(self, parameters):
        return self.posterior.distribution(parameters, 3)


@pytest.mark.parametrize("name", [name for name, make in sorted(models.POSTERIORS.items()) if not make().codes])
def test_a_posterior_of_zeros_is_the_prior(name):
    """Except for those whose prior is of another family."""
    posterior = _with_four_categories(name)
    parameters = np.zeros((B, posterior.num_parameters(3)), np.float32)

    @jax.jit
    def program(key):
        q, _ = _Made(posterior).init_with_output(key, parameters)
        prior = models.Prior(3, posterior).apply({})
        if name == "student_t" or isinstance(prior, dist.UniformOnSphere):
            return q, prior, ()  # the prior is of another family
        if isinstance(q, dist.Flow):
            z, log_q = q.rsample_and_log_prob(key, 5)
            return q, prior, (log_q, prior.log_prob(z))
        if name == "mixture_of_normals" or posterior.hard:  # no closed form of the KL
            z = q.sample(key, 5)
            return q, prior, (q.log_prob(z), prior.log_prob(z))
        return q, prior, dist.kl(q, prior)

    q, prior, found = jax.device_get(program(jax.random.key(0)))
    assert (q.batch_shape, prior.batch_shape) == ((B,), ())
    if name == "student_t":
        np.testing.assert_allclose(np.exp(q.log_df), np.exp(2.0), rtol=1e-6)
    elif isinstance(prior, dist.UniformOnSphere):
        np.testing.assert_allclose(q.log_concentration, np.log(3), rtol=1e-6)
    elif isinstance(found, tuple):
        np.testing.assert_allclose(*found, rtol=0 if posterior.hard else 1e-6)
    else:
        np.testing.assert_allclose(found, np.zeros(B), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, make in sorted(models.POSTERIORS.items()) if make().has_own_prior])
def test_a_learned_prior_begins_at_the_standard_prior_and_moves(name):
    posterior = _with_four_categories(name)
    learned = models.Prior(3, posterior, models.PRIORS["learned"]())

    @jax.jit
    def program(key):
        params = learned.init(key)
        moved = jax.tree.map(lambda leaf: leaf + 0.3 * np.arange(leaf.size), params)
        return models.Prior(3, posterior).apply({}), learned.apply(params), learned.apply(moved)

    standard, start, moved = jax.device_get(program(jax.random.key(0)))
    assert start.batch_shape == ()
    jax.tree.map(np.testing.assert_array_equal, start, standard)
    leaves = zip(*map(jax.tree.leaves, (moved, start)), strict=True)
    assert any(np.any(leaf != like) for leaf, like in leaves)


def test_full_covariance_is_built_of_all_its_outputs():
    posterior = models.POSTERIORS["full_covariance"]()
    flat = np.float32(np.random.default_rng(0).normal(size=(B, posterior.num_parameters(3))))
    q = jax.device_get(jax.jit(lambda flat: posterior.distribution(flat, 3))(flat))
    np.testing.assert_array_equal(q.mean, flat[:, :3])
    sigma = np.exp(0.5 * float64(flat[:, 3:6]))
    np.testing.assert_allclose(np.diagonal(q.cholesky, axis1=-2, axis2=-1), sigma, rtol=1e-6)
    rows, columns = np.tril_indices(3, -1)
    np.testing.assert_allclose(q.cholesky[:, rows, columns], sigma[:, rows] * float64(flat[:, 6:]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(np.triu(q.cholesky, 1), 0)


def test_low_rank_is_built_of_all_its_outputs():
    posterior = models.POSTERIORS["low_rank"](rank=2)
    flat = np.float32(np.random.default_rng(0).normal(size=(B, posterior.num_parameters(3))))
    q = jax.device_get(jax.jit(lambda flat: posterior.distribution(flat, 3))(flat))
    np.testing.assert_array_equal(q.mean, flat[:, :3])
    np.testing.assert_array_equal(q.log_var, flat[:, 3:6])
    sigma = np.exp(0.5 * float64(flat[:, 3:6]))[..., None]
    np.testing.assert_allclose(q.factor, sigma * float64(flat[:, 6:]).reshape(B, 3, 2) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "read"), [("normal", lambda z: z), ("laplace", np.arcsinh), ("student_t", np.arcsinh)]
)
@pytest.mark.parametrize(("inference", "layer"), [("bottom_up", "rest_0"), ("top_down", "layers_1")])
def test_heavy_tails_are_squashed_between_layers(inference, layer, family, read):
    """Without hidden layers, the mean of a layer is linear in what its network reads of the layer before."""
    sizes = {"latent_dim": (2, 2), "hidden": (), "inference": inference}
    model = models.make_vae((2, 2, 1), posterior=family, **sizes)
    x, z = images((2, 2, 1)), 30 * np.random.default_rng(0).normal(size=(K, B, 2)).astype(np.float32)
    params = parameters(model, x)

    @jax.jit
    def moves(params):
        q, p = model.apply(params, x, method="encode"), model.apply(params, method="prior_distribution")
        return [d.layer(1, z).mean - d.layer(1, jnp.zeros_like(z)).mean for d in (q, p)]

    for part, name, move in zip(("encoder", "prior"), (layer, "rest_0"), moves(params), strict=True):
        kernel = params["params"][part][name]["parameters"]["kernel"][-2:, :2]
        np.testing.assert_allclose(move, read(float64(z)) @ float64(kernel), rtol=1e-4, atol=1e-4)


# The implicit gradients compile for long; Dirichlet and Student t stay to represent them.
SLOW = ("beta", "gamma", "poisson", "low_rank", "mixture_of_normals", "power_spherical", "von_mises_fisher")
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in SLOW else [])


@pytest.mark.parametrize("family", [_slow(each) for each in sorted(models.POSTERIORS)])
def test_every_posterior_trains(family):
    """One step up the gradient, which is finite and reaches all parameters, raises the bound at the same noise."""
    options = {"categories": 3} if family in ("categorical", "concrete") else {}
    posterior = models.POSTERIORS[family](**options)
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(6,), activation="tanh", posterior=posterior)
    name = estimator_for(family)
    estimator = BY_NAME[name].make(num_samples=4)
    x = images((4, 4, 1), batch=5)

    def bound(params, key):
        expect = bind(estimator, {}, {}, key)
        return jnp.mean(objectives.elbo(model.apply, params, x, expect).value)

    with jax.numpy_dtype_promotion("strict"):
        params = parameters(model, x)
        step = jax.jit(jax.value_and_grad(bound))
        value, grads = jax.device_get(step(params, jax.random.key(1)))
        moved = jax.tree.map(lambda leaf, slope: leaf + np.float32(1e-2) * slope, params, grads)
        higher, _ = step(moved, jax.random.key(1))
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path
    if name == "reparam":  # the gradients of others are not those of the value at fixed noise
        assert float(higher) > float(value)


@pytest.mark.parametrize("family", ["bernoulli", "binary_concrete"])
def test_signed_bits_are_seen_as_minus_one_and_one(family):
    """By the decoder, and by the encoder of the layer above: with half the weights on what they see and its mean in the
    bias, the networks that see 0 and 1 are the same."""
    sizes = {"latent_dim": (D, 2), "hidden": (6,), "layer_hidden": (5,)}
    plain, signed = (
        models.make_vae((2, 3, 1), posterior=models.POSTERIORS[family](signed=each), **sizes) for each in (False, True)
    )
    x, key = images((2, 3, 1)), jax.random.key(3)
    params = parameters(plain, x)
    other = jax.tree.map(lambda leaf: leaf, params)
    for part in ("encoder/rest_0", "prior/rest_0", "decoder"):
        first, second = part.split("/") if "/" in part else (part, None)
        network = other["params"][first][second]["network"] if second else other["params"][first]["network"]
        layer = network["hidden_0"]
        network["hidden_0"] = {"kernel": layer["kernel"] / 2, "bias": layer["bias"] + layer["kernel"].sum(0) / 2}

    def log_densities(model):
        """Samples of the plain model, and their densities, log p(x, z) and log q(z), by this model."""

        def program(params, z=None):
            q = model.apply(params, x, method="encode")
            z = q.sample(key, 2) if z is None else z
            return z, objectives.log_joint(model.apply, params, x)(z), q.log_prob(z)

        return jax.jit(program)

    of_signed = log_densities(signed)
    z, *of_plain = log_densities(plain)(params)
    joint, posterior = zip(of_plain, of_signed(other, z)[1:], of_signed(params, z)[1:], strict=True)
    np.testing.assert_allclose(joint[0], joint[1], rtol=1e-5)
    np.testing.assert_allclose(posterior[0], posterior[1], rtol=1e-5)
    assert np.abs(float64(joint[0]) - float64(joint[2])).min() > 1e-3  # the same weights see something else


def test_relaxed_classes_have_the_temperature_of_the_option_and_are_read_as_probabilities():
    """At far logits, the decoder reads a relaxed class as the one-hot vector that it approaches."""
    posterior = models.POSTERIORS["concrete"](categories=3, temperature=0.4)
    relaxed, hard = (
        models.make_vae((2, 2, 1), latent_dim=2, hidden=(), posterior=p) for p in (posterior, posterior.hard)
    )
    x = images((2, 2, 1), batch=1)
    params = parameters(relaxed, x)
    classes = np.eye(3, dtype=np.float32)[[[[2, 0]]]]
    decode = lambda model, z: jax.jit(functools.partial(model.apply, method="decode"))(params, z).logits
    far = jax.nn.log_softmax(100 * classes)
    np.testing.assert_allclose(decode(relaxed, far), decode(hard, classes), rtol=1e-6)
    assert relaxed.apply(params, x, method="encode").temperature == 0.4


def test_relaxed_bits_have_a_bound_on_log_p_and_harden():
    """One latent, so that log p(x) is an integral: the relaxed bound is below it, by a KL that vanishes with K. Read as
    bits, the same parameters are a Bernoulli model."""
    sizes = {"latent_dim": 1, "hidden": (), "prior": "learned"}
    posterior = models.POSTERIORS["binary_concrete"](temperature=0.4)
    relaxed = models.make_vae((2, 2, 1), posterior=posterior, **sizes)
    x = images((2, 2, 1), batch=3)
    params = jax.tree.map(lambda leaf: leaf + 0.7, parameters(relaxed, x))
    encode = lambda model: jax.jit(functools.partial(model.apply, method="encode"))(params, x)
    q = encode(relaxed)
    assert (q.temperature, relaxed.apply(params, method="prior_distribution").temperature) == (0.4, 0.4)

    @jax.jit
    def log_p_and_weights(z):
        log_joint = lambda z: objectives.log_joint(relaxed.apply, params, x)(z)
        log_p = jax.nn.logsumexp(log_joint(jnp.broadcast_to(z, (len(z), 3, 1))), axis=0) + np.log(160 / 40_000)
        z = q.sample(jax.random.key(0), 200_000)
        return log_p, log_joint(z) - q.log_prob(z)

    log_p, weights = jax.device_get(log_p_and_weights(np.linspace(-80, 80, 40_001, dtype=np.float32)[:, None, None]))
    gap, error = np.mean(weights, axis=0) - log_p, np.std(weights, axis=0) / np.sqrt(len(weights))
    assert np.all(gap < -10 * error)
    ratio = np.exp(weights - log_p)
    assert np.all(np.abs(np.mean(ratio, axis=0) - 1) < 4.5 * np.std(ratio, axis=0) / np.sqrt(len(ratio)))

    hard = models.make_vae((2, 2, 1), posterior=posterior.hard, **sizes)
    np.testing.assert_array_equal(encode(hard).logits, q.logits)
    far = np.float32([[[-1e4]] * 3, [[1e4]] * 3])  # the logits of a relaxed bit that is one
    np.testing.assert_allclose(
        jax.jit(functools.partial(relaxed.apply, method="log_likelihood"))(params, x, far),
        jax.jit(functools.partial(hard.apply, method="log_likelihood"))(params, x, np.float32(far > 0)),
        rtol=1e-6,
    )


def _likelihood(name, shape=(2, 3, 1)):
    model = models.make_vae(shape, latent_dim=D, hidden=(6,), activation="tanh", likelihood=name)
    x = jnp.round(images(shape, batch=5) * 255) / 255
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))
    z = np.float32(np.random.default_rng(3).normal(size=(K, 5, D)))
    return model, params, x, z


def test_gaussian_likelihood_learns_its_scale():
    model, params, x, z = _likelihood("gaussian")
    pixels = jax.jit(functools.partial(model.apply, method="decode"))(params, z)
    flat = float64(x).reshape(5, -1)
    log_likelihood = lambda params: model.apply(params, x, z, method="log_likelihood")
    in_params = jax.jit(jax.grad(lambda params: jnp.sum(log_likelihood(params))))
    slope = lambda params: in_params(params)["params"]["decoder"]["log_scale"]
    np.testing.assert_allclose(pixels.scale, np.exp(-1.0), rtol=1e-6)
    assert 0 < np.min(pixels.mean)
    assert np.max(pixels.mean) < 1
    squares = (flat - float64(pixels.mean)) ** 2  # [K, B, pixels]
    # d/d log s of sum log N(x; m, s^2) = sum ((x - m)^2 / s^2 - 1), one scale a pixel
    np.testing.assert_allclose(slope(params), np.sum(squares / np.exp(-2.0) - 1, axis=(0, 1)), rtol=1e-4)
    # At the maximum-likelihood scale the slope is zero, and the likelihood what scipy says.
    best = 0.5 * np.log(squares.mean(axis=(0, 1)))
    params["params"]["decoder"]["log_scale"] = jnp.asarray(best, jnp.float32)
    np.testing.assert_allclose(slope(params), 0, atol=1e-3)
    truth = st.norm(float64(pixels.mean), np.exp(best)).logpdf(flat).sum(-1)
    np.testing.assert_allclose(jax.jit(log_likelihood)(params), truth, rtol=1e-5)


def test_discretized_logistic_likelihood_is_a_mass():
    model, params, x, z = _likelihood("discretized_logistic")
    pixels = jax.jit(functools.partial(model.apply, method="decode"))(params, z)
    cdf = st.logistic(float64(pixels.mean), np.exp(-2.0)).cdf
    flat, half = float64(x).reshape(5, -1), 0.5 / 255
    upper, lower = np.where(flat > 1 - half, 1, cdf(flat + half)), np.where(flat < half, 0, cdf(flat - half))
    log_likelihood = lambda params: model.apply(params, x, z, method="log_likelihood")
    np.testing.assert_allclose(jax.jit(log_likelihood)(params), np.log(upper - lower).sum(-1), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda params: jnp.sum(log_likelihood(params))))(params)
    assert np.all(np.asarray(slope["params"]["decoder"]["log_scale"]))
