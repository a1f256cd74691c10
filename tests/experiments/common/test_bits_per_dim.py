"""Bits per dimension are those of a probability of the pixel's values: 2^-bits sums to one over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.settings import Settings
from vae import models
from vae.data import Dataset

LEVELS = 17
GREY = np.arange(LEVELS, dtype=np.float32) / (LEVELS - 1)
COUNTS = np.arange(2000, dtype=np.float32)
FINE = np.linspace(-20, 21, 200_001)  # pixels, beyond [0, 1] as well, where a Gaussian has mass

CASES = {
    "discretized_logistic": (models.LIKELIHOODS.make("discretized_logistic"), GREY),
    "mixture": (models.LIKELIHOODS.make("discretized_logistic_mixture", components=3), GREY),
    "categorical": (models.LIKELIHOODS.make("categorical"), GREY),
    "poisson": (models.LIKELIHOODS.make("poisson"), COUNTS),
    "negative_binomial": (models.LIKELIHOODS.make("negative_binomial"), COUNTS),
    **{scale: (models.LIKELIHOODS.make("gaussian", scale=scale), FINE) for scale in ("fixed", "decoder")},
}


def bits(likelihood, values):
    """The bits of an image of one pixel, for each of its values."""
    dtype, levels = (np.int32, 0) if likelihood.pixels == "counts" else (np.uint8, LEVELS)
    images = np.zeros((2, 1, 1, 1), dtype)
    data = Dataset("mine", images, images, images, levels=levels, checksum="")
    numbers = likelihood.num_outputs(levels)
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, numbers)), jnp.float32)
    outputs = outputs[..., None, :] if numbers > 1 else outputs
    param = lambda name, initializer, shape, dtype: initializer(jax.random.key(0), shape, dtype)
    log_prob = jax.jit(lambda x: likelihood.distribution(param, outputs, levels).log_prob(x))
    nats = -np.asarray(log_prob(np.float32(values)[:, None, None]), np.float64)[:, 0]
    return np.array([build.bits_per_dim(each, data, likelihood) for each in nats])


@pytest.mark.parametrize("name", CASES)
def test_probabilities_in_bits_sum_to_one(name):
    likelihood, values = CASES[name]
    width = (values[1] - values[0]) * (LEVELS - 1) if likelihood.is_density else 1.0  # in grey levels
    assert np.sum(2.0 ** -bits(likelihood, values)) * width == pytest.approx(1, rel=1e-3)


def test_a_density_in_units_of_the_whole_range_would_not_be_a_density_of_grey_levels():
    """The control: the Gaussian's bits without the term for the unit of length."""
    likelihood, values = CASES["fixed"]
    without = bits(likelihood, values) - np.log2(LEVELS - 1)
    assert np.sum(2.0**-without) * (values[1] - values[0]) * (LEVELS - 1) == pytest.approx(16, rel=1e-3)


def test_bits_per_dim_of_a_uniform_mass():
    """256 equally likely levels cost 8 bits a pixel, whatever the image's size."""
    run = Settings(binarization="none", likelihood="discretized_logistic")
    digits = build.load_data(run, None)
    logistic, gaussian = models.LIKELIHOODS.make("discretized_logistic"), models.LIKELIHOODS.make("gaussian")
    assert build.bits_per_dim(64 * np.log(256), digits, logistic) == pytest.approx(8)
    # A Gaussian density of height 1 on [0, 1] is one of 1 / 16 on the 17 levels' own scale.
    assert build.bits_per_dim(0.0, digits, gaussian) == pytest.approx(4)
