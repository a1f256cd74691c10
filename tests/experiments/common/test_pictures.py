"""What the pictures of a run are made of, by a model whose images are its latents."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.common import build, pictures
from experiments.common.settings import Settings
from vae.data import Dataset
from vae.distributions import Mixture, Normal, PowerSpherical

MEAN, LOG_VAR = jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.25, 9.0]))
TEST = np.random.default_rng(0).random((1203, 1, 2, 1), np.float32)


class _Model(NamedTuple):
    apply: Callable


@pytest.fixture
def drawn(monkeypatch, request):
    """How many images were encoded, and latents decoded, at once; and what each figure is of. The parameter is the test
    set."""
    encoded, decoded = [], []

    def apply(params, *inputs, method):
        if method == "prior_distribution":
            return Normal(MEAN, LOG_VAR)
        if method == "encode":
            encoded.append(len(inputs[0]))
            return Normal(inputs[0].reshape(-1, 2), jnp.full((len(inputs[0]), 2), -40.0))
        decoded.append(inputs[0].shape[1])
        return Normal(inputs[0], jnp.zeros_like(inputs[0]))

    figures = ("reconstructions", "image_grid", "interpolations", "latent_plane")
    monkeypatch.setattr(pictures, "plots", SimpleNamespace(**{name: lambda *args, **_: args for name in figures}))
    test = getattr(request, "param", TEST)
    labels = {"test": np.arange(len(test))}
    data = Dataset("mine", TEST[:1], TEST[:0], test, levels=0, checksum="", labels=labels)
    return encoded, decoded, pictures._model_figures(data, _Model(apply), {})


def test_no_more_images_are_in_memory_than_are_drawn(drawn):
    encoded, decoded, figures = drawn
    assert max(encoded) == 12
    assert max(decoded) == 400  # of the plane
    originals, reconstructed = figures["reconstructions"]
    np.testing.assert_array_equal(originals, TEST[:10])
    np.testing.assert_allclose(reconstructed, TEST[:10], atol=1e-6)
    (paths,) = figures["interpolations"]
    np.testing.assert_allclose(paths[:, [1, -2]], paths[:, [0, -1]], atol=1e-6)
    np.testing.assert_array_equal(paths[:, [0, -1]], TEST[:12].reshape(6, 2, 1, 2, 1))


def test_the_plane_is_of_the_quantiles_of_the_prior_and_of_all_means(drawn):
    images, z, means, labels = drawn[2]["latent_plane"]
    quantiles = np.linspace(0.02, 0.98, 20)
    axes = [stats.norm.ppf(quantiles, MEAN[d], np.exp(LOG_VAR[d] / 2)) for d in (0, 1)]
    np.testing.assert_allclose(z, axes, rtol=1e-4)
    np.testing.assert_allclose(images.reshape(20, 20, 2), np.stack(np.meshgrid(*axes), axis=-1), rtol=1e-4)
    np.testing.assert_array_equal(means, TEST.reshape(-1, 2))
    np.testing.assert_array_equal(labels, np.arange(len(TEST)))


def test_runs_of_other_seeds_and_estimators_are_drawn_with_the_same_noise():
    """Samples of the prior are equal. Samples of the posterior are equal in units of each model's posterior."""
    images = np.zeros((20, 8, 8, 1), np.uint8)
    data = Dataset("digits", images, images[:0], images, levels=2, checksum="0" * 64)
    run = Settings(hidden=(4,), latent_dim=(2,), objective="elbo")
    model, other_model = (
        build.model(dataclasses.replace(run, estimator=name), data, for_evaluation=True) for name in ("reparam", "stl")
    )
    x = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
    first, second = (model.init(jax.random.key(seed), x, jax.random.key(0)) for seed in (0, 1))
    q, other_q = (model.apply(params, x, method="encode") for params in (first, second))
    z, _, samples = pictures._latents(model, first, x)
    other_z, _, other_samples = pictures._latents(other_model, second, x)
    assert np.abs(q.mean - other_q.mean).max() > 0.1
    np.testing.assert_allclose((z - q.mean) / q.scale, (other_z - other_q.mean) / other_q.scale, atol=1e-5)
    np.testing.assert_array_equal(samples, other_samples)


@pytest.mark.parametrize("drawn", [TEST[:1]], indirect=True)
def test_a_test_set_of_one_image_has_no_interpolations(drawn):
    """They would need two images, and the other pictures are drawn all the same."""
    assert set(drawn[2]) == {"reconstructions", "prior_samples", "latent_plane"}


def test_interpolations_of_latents_on_a_sphere_stay_on_it_whatever_the_prior(monkeypatch):
    def apply(params, *inputs, method):
        if method == "prior_distribution":
            return Mixture(jnp.zeros(2), PowerSpherical(jnp.eye(2), jnp.zeros((2, 1))))
        if method == "encode":
            return PowerSpherical(inputs[0].reshape(-1, 2) - 0.5, jnp.full((len(inputs[0]), 1), 3.0))
        return Normal(inputs[0], jnp.zeros_like(inputs[0]))

    drawn = []
    figures = {"reconstructions": None, "image_grid": None, "interpolations": drawn.append}
    plots = SimpleNamespace(**{name: draw or (lambda *_: None) for name, draw in figures.items()})
    monkeypatch.setattr(pictures, "plots", plots)
    data = Dataset("mine", TEST[:1], TEST[:0], TEST, levels=0, checksum="")
    pictures._model_figures(data, _Model(apply), {})
    np.testing.assert_allclose(np.linalg.norm(drawn[0][:, 1:-1, 0, :, 0], axis=-1), 1, rtol=1e-5)
