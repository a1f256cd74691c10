"""Likelihoods with several numbers for each pixel, options, and counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from tests.helpers.random_models import ARCHITECTURES, float64, images, parameters
from vae import models, objectives
from vae.estimators import bind, make

SHAPE = (2, 3, 2)
LIKELIHOODS = {
    "categorical": models.LIKELIHOODS.make("categorical"),
    "mixture": models.LIKELIHOODS.make("discretized_logistic_mixture", components=2),
    "poisson": models.LIKELIHOODS.make("poisson"),
    "negative_binomial": models.LIKELIHOODS.make("negative_binomial"),
    **{scale: models.LIKELIHOODS.make("gaussian", scale=scale) for scale in ("global", "fixed", "decoder")},
}


def small_vae(likelihood, **options):
    return models.make_vae(
        SHAPE,
        **{"latent_dim": 2, "hidden": (6,), "likelihood": likelihood, "levels": 5, "activation": "tanh"} | options,
    )


def data(likelihood):
    grey = np.round(np.asarray(images(SHAPE, batch=4)) * np.float32(4))
    return grey * 100 if likelihood.pixels == "counts" else grey / 4


@pytest.mark.parametrize("name", ["categorical", "mixture", "negative_binomial", "decoder"])
def test_a_step_up_a_gradient_that_reaches_all_parameters_raises_the_bound(name):
    model, x, reparam = small_vae(LIKELIHOODS[name]), data(LIKELIHOODS[name]), make("reparam", num_samples=4)
    bound = lambda params: jnp.mean(
        objectives.elbo(model.apply, params, x, bind(reparam, {}, {}, jax.random.key(1))).value
    )
    with jax.numpy_dtype_promotion("strict"):
        params = parameters(model, x)
        step = jax.jit(jax.value_and_grad(bound))
        value, gradients = jax.device_get(step(params))
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    length = np.sqrt(sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)))
    higher, _ = step(
        jax.tree.map(lambda leaf, slope: leaf + np.float32(1e-3) * slope / np.float32(length), params, gradients)
    )
    assert float(higher) > float(value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_numbers_of_a_pixel_lie_side_by_side(architecture):
    """A shift of one pixel's bias moves the probabilities of this pixel alone."""
    options = {"architecture": ARCHITECTURES[architecture], "hidden": (6, 5)}
    model = small_vae(LIKELIHOODS["categorical"], **options)
    z = np.zeros((1, 1, 2), np.float32)
    params = parameters(model, data(LIKELIHOODS["categorical"]))

    @jax.jit
    def decode(params, z):
        pixels = model.apply(params, z, method="decode")
        return pixels.logits, pixels.mean

    logits, mean = jax.device_get(decode(params, z))  # now, because params change below
    assert (logits.shape, mean.shape) == ((1, 1, 12, 5), (1, 1, 12))
    if architecture != "mlp":
        return
    [layer] = [each for each in params["params"]["decoder"]["network"].values() if each["bias"].shape == (60,)]
    layer["bias"][5 * 7 + 4] += 3  # the highest level of pixel 7
    moved = np.asarray(decode(params, z)[1]) - np.asarray(mean)
    assert np.flatnonzero(np.abs(moved[0, 0]) > 1e-6).tolist() == [7]
    assert moved[0, 0, 7] > 0.1


def test_the_scales_of_a_gaussian():
    x, z = data(LIKELIHOODS["global"]), np.float32([[[0.0, 0.0], [3.0, -3.0]]])
    decode = {}
    for scale in ("global", "fixed", "decoder"):
        model = small_vae(models.LIKELIHOODS.make("gaussian", scale=scale, log_scale=-1.5))

        @jax.jit
        def program(key, model=model):
            params = model.init(key, x, key)
            log_scale = params["params"]["decoder"].get("log_scale", np.zeros(()))
            return log_scale, model.apply(params, z, method="decode").scale

        log_scale, scales = program(jax.random.key(0))
        decode[scale] = log_scale.shape, float64(scales)
    assert {scale: shape for scale, (shape, _) in decode.items()} == {"global": (1,), "fixed": (), "decoder": ()}
    for scale in ("global", "fixed"):
        np.testing.assert_allclose(decode[scale][1], np.exp(-1.5), rtol=1e-6)
    assert np.std(decode["decoder"][1][0, 1]) > 0.01
    with pytest.raises(ValueError, match="has no scale=row; choose one of pixel, global, fixed, decoder"):
        models.LIKELIHOODS.make("gaussian", scale="row")


def test_the_scale_of_the_decoder_is_its_second_output_above_the_option():
    likelihood = models.LIKELIHOODS.make("gaussian", scale="decoder", log_scale=-1.5)
    pixels = likelihood.distribution(lambda *_: None, jnp.asarray([[[[0.2, 0.4], [-1.0, 0.0]]]]), 0)
    np.testing.assert_allclose(pixels.scale[0, 0], np.exp([-1.1, -1.5]), rtol=1e-6)
    np.testing.assert_allclose(pixels.mean[0, 0], expit([0.2, -1.0]), rtol=1e-6)


def test_the_components_of_a_mixture_start_apart_and_around_the_mean_image():
    likelihood = models.LIKELIHOODS.make("discretized_logistic_mixture", components=3)
    outputs = np.zeros((1, 1, 2, 9), np.float32)
    outputs[..., 0], outputs[..., 4], outputs[..., 8] = 0.7, 0.1, -0.3  # a logit, a location and a log-scale
    mean = np.float32([0.2, 0.9])
    pixels = likelihood.distribution(lambda *_: None, likelihood.at_mean(jnp.asarray(outputs), jnp.asarray(mean)), 256)
    locations = logit(float64(mean))[:, None] + [-1, 0.1, 1]
    np.testing.assert_allclose(pixels.means[0, 0], expit(locations), rtol=1e-5)
    np.testing.assert_allclose(pixels.log_scale[0, 0], [[-2, -2, -2.3]] * 2, rtol=1e-6)
    np.testing.assert_allclose(pixels.logits[0, 0], [[0.7, 0, 0]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("name", "least"), [("decoder", 0.99), ("mixture", 0.8)])
def test_the_data_mean_moves_the_locations(name, least):
    mean = tuple(np.linspace(0.1, 0.9, 12).tolist())
    model, plain = small_vae(LIKELIHOODS[name], data_mean=mean), small_vae(LIKELIHOODS[name])
    params = jax.tree.map(np.zeros_like, parameters(model, data(LIKELIHOODS[name])))
    z = np.zeros((1, 1, 2), np.float32)

    @jax.jit
    def decode(params, z):
        both = [m.apply(params, z, method="decode") for m in (model, plain)]
        return [pixels.mean for pixels in both], [pixels.scale for pixels in both] if name == "decoder" else []

    (decoded, other), scales = jax.device_get(decode(params, z))
    assert np.corrcoef(decoded[0, 0], mean)[0, 1] > least
    np.testing.assert_allclose(other, 0.5, atol=1e-6)
    if name == "decoder":
        np.testing.assert_allclose(decoded[0, 0], mean, rtol=1e-5)
        np.testing.assert_array_equal(*scales)


def test_the_encoder_reads_counts_like_logs():
    """Large counts do not explode the posterior's parameters, and pseudo-inputs below zero are allowed."""
    model = small_vae(LIKELIHOODS["poisson"])
    params = parameters(model, data(LIKELIHOODS["poisson"]))
    counts = np.full((1, *SHAPE), 1e6, np.float32)
    encode = lambda model: jax.jit(functools.partial(model.apply, method="encode"))
    q, same = (
        encode(m)(params, x) for m, x in ((model, counts), (small_vae(LIKELIHOODS["global"]), np.arcsinh(counts)))
    )
    np.testing.assert_allclose(q.mean, same.mean, rtol=1e-5)
    assert np.all(np.isfinite(encode(model)(params, -counts).mean))


@pytest.mark.parametrize("name", ["discretized_logistic", "discretized_logistic_mixture", "categorical"])
def test_the_probabilities_of_the_grey_levels_sum_to_one(name):
    model = models.make_vae((1, 1, 1), latent_dim=2, hidden=(), likelihood=name, levels=5)
    x, z = np.linspace(0, 1, 5, dtype=np.float32).reshape(5, 1, 1, 1), np.ones((1, 5, 2), np.float32)
    log_p = jax.jit(lambda params: model.apply(params, x, z, method="log_likelihood"))(parameters(model, x))
    np.testing.assert_allclose(np.exp(float64(log_p)).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_the_means_of_counts_grow_like_exp_and_then_more_slowly(name):
    outputs = np.float32([[[-3.0, 4.0, 4.99, 5.01, 1000.0]]])
    zeros = lambda name, initializer, shape, dtype: jnp.zeros(shape, dtype)
    mean = lambda outputs: LIKELIHOODS[name].distribution(zeros, outputs, 0).mean
    truth = np.exp([-3, 4, 4.99, 5]) * [1, 1, 1, 1.01]
    np.testing.assert_allclose(jax.jit(mean)(outputs)[0, 0], [*truth, np.exp(5) * 996], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda outputs: jnp.sum(jnp.log(mean(outputs)))))(outputs)
    np.testing.assert_allclose(slope[0, 0], [1, 1, 1, 1 / 1.01, 1 / 996], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"likelihood": "poisson", "data_mean": (0.5,) * 12}, "likelihood=poisson takes no data_mean"),
        ({"likelihood": "categorical", "levels": 0}, "likelihood=categorical needs grey levels, got levels=0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_vae(**options)
    with pytest.raises(ValueError, match="discretized_logistic_mixture needs at least one component, got 0"):
        models.LIKELIHOODS.make("discretized_logistic_mixture", components=0)
