"""The model as a whole: its densities for every image shape, its noise, and the centring of the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats as st
from scipy.special import expit

from tests.helpers.random_models import ARCHITECTURES, float64, images, parameters
from vae import estimators, models, objectives, train

SHAPES = [(28, 28, 1), (32, 32, 3), (5, 7, 1), (1, 10, 1)]
K, B, D = 3, 2, 4


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        *((name, shape) for name in models.ARCHITECTURES if name != "resnet" for shape in SHAPES),
        *(("resnet", shape) for shape in [(28, 28, 1), (32, 32, 3), (5, 7, 1)]),  # each takes seconds to compile
    ],
    ids=str,
)
def test_every_image_shape(shape, architecture):
    model = models.make_vae(
        shape, latent_dim=D, hidden=(6, 5), architecture=ARCHITECTURES[architecture], activation="tanh"
    )
    x = images(shape)
    z = np.random.default_rng(1).normal(size=(K, B, D)).astype(np.float32)
    z[0, 1] = z[1, 0]

    @jax.jit
    def program(params):
        q = model.apply(params, x, method="encode")  # no rngs: no module calls make_rng
        joint = objectives.log_joint(model.apply, params, x)(jnp.asarray(z))
        terms = model.apply(params, x, z, method="log_likelihood"), joint
        prior = model.apply(params, method="prior_distribution")
        return q, model.apply(params, z, method="decode").logits, *terms, prior.log_prob(z)

    q, logits, likelihood, joint, log_prior = jax.device_get(program(parameters(model, x)))
    assert q.mean.shape == q.log_var.shape == (B, D)
    assert logits.shape == (K, B, np.prod(shape))
    flat = float64(x).reshape(B, -1)
    truth = np.sum(flat * float64(logits) - np.logaddexp(0, float64(logits)), axis=-1)
    np.testing.assert_allclose(likelihood, truth, rtol=1e-5)
    np.testing.assert_allclose(log_prior, st.norm.logpdf(float64(z)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(joint, likelihood + log_prior, rtol=1e-6)
    # Another image has another posterior, another z another image, and the same z the same one wherever it stands.
    assert np.all(q.mean[0] != q.mean[1])
    assert np.all(np.abs(logits[0, 0] - logits[1:, 0]).max(axis=-1) > 1e-3)
    np.testing.assert_allclose(logits[0, 1], logits[1, 0], rtol=1e-5, atol=1e-6)


def test_the_key_is_the_noise():
    model = models.make_vae((4, 4, 1), latent_dim=D, hidden=(6,))
    x = images((4, 4, 1))
    params = parameters(model, x)

    @jax.jit
    def call(params, key):
        z = model.apply(params, x, method="encode").sample(key, K)
        return model.apply(params, x, key, K).logits, model.apply(params, z, method="decode").logits

    first, by_hand = call(params, jax.random.key(1))
    np.testing.assert_allclose(first, by_hand, rtol=1e-6, atol=1e-6)  # encodes, samples with the key given, decodes
    np.testing.assert_array_equal(first, call(params, jax.random.key(1))[0])
    assert np.abs(first - call(params, jax.random.key(2))[0]).max() > 1e-3
    # Common random numbers: with the same key, a small change of the parameters is a small change of the draw.
    near = jax.tree.map(lambda leaf: leaf * (1 + 1e-5), params)
    assert np.abs(first - call(near, jax.random.key(1))[0]).max() < 1e-3


def test_a_decoder_of_ones_own_reads_the_first_of_several_layers():
    decoder = models.Decoder(models.MLP((), outputs=6))
    first, second = np.random.default_rng(0).normal(size=(2, K, B, D)).astype(np.float32)
    params = decoder.init(jax.random.key(0), first)
    logits = lambda z: decoder.apply(params, z).logits
    np.testing.assert_array_equal(logits((first, second)), logits(first))


def test_the_data_mean_centres_both_ends():
    """The encoder sees x - mean; the decoder's output begins at the logits of the mean."""
    shape, mean = (2, 3, 1), (0.1, 0.5, 0.9, 0.3, 0.2, 0.7)
    options = dict(latent_dim=D, hidden=(6,), activation="tanh")
    plain, centred = models.make_vae(shape, **options), models.make_vae(shape, **options, data_mean=mean)
    x, z = images(shape), np.zeros((1, B, D), np.float32)
    params = parameters(plain, x)
    shifted = x - np.float32(mean).reshape(shape)

    @jax.jit
    def program(params):
        means = centred.apply(params, x, method="encode").mean, plain.apply(params, shifted, method="encode").mean
        return means, [model.apply(params, z, method="decode").logits for model in (centred, plain)]

    means, (logits, plain_logits) = jax.device_get(program(params))
    np.testing.assert_allclose(*means, rtol=1e-5)
    np.testing.assert_allclose(expit(logits - plain_logits), np.broadcast_to(mean, (1, B, 6)), rtol=1e-5)


def test_outputs_and_images_of_another_size_are_refused():
    class OnePixel(type(models.ARCHITECTURES.make("mlp"))):
        def decoder(self, hidden, activation, image_shape, dtype):
            return models.MLP(hidden, outputs=1)

    x = images((4, 4, 1))
    with pytest.raises(ValueError, match=r"decoder must return the shape \[1, 2, 16\], got \[1, 2, 1\]"):
        parameters(models.make_vae((4, 4, 1), latent_dim=3, architecture=OnePixel()), x)
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(4,))
    with pytest.raises(ValueError, match=r"z must have the shape \[K, B, D\], got \[2, 3\]; for K"):
        model.apply(parameters(model, x), np.zeros((2, 3), np.float32), method="decode")
    with pytest.raises(ValueError, match=r"for images of 16 numbers, and x has the shape \[2, 1, 1, 1\]"):
        model.apply(parameters(model, x), x[:, :1, :1], np.zeros((1, 2, 3), np.float32), method="log_likelihood")


def test_images_of_whole_numbers_are_refused_also_in_an_epoch():
    model = models.make_vae((4, 4, 1), latent_dim=D, hidden=())
    reparam, tx = estimators.reparam(), optax.sgd(0.1)
    grey = np.zeros((B, 4, 4, 1), np.uint8)
    state = jax.eval_shape(train.make_init(model, reparam, tx, grey), jax.random.key(0))
    epoch = train.make_epoch(train.make_step(model.apply, objectives.elbo, reparam, tx), batch_size=B)
    sentence = r"images must be floats, got uint8; vae.data.pixels\(x, levels\) turns grey levels into floats"
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(epoch, state, jax.random.key(0), grey)
    for method in ("encode", "log_likelihood"):
        arguments = (grey, np.zeros((1, B, D), np.float32))[: 1 + (method == "log_likelihood")]
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(functools.partial(model.apply, method=method), state.params["model"], *arguments)
