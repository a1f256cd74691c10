"""Warnings about settings that can be trained on the data, but that few users would mean."""

import warnings

import numpy as np
import pytest

from experiments.common.settings import Settings
from experiments.train import doubtful
from experiments.train.sweep import Sweep
from tests.helpers.train_options import make_options
from vae.data import Dataset

VARYING = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3)).astype(np.uint8)
GREY = VARYING[..., :1]
CONSTANT = np.where(np.arange(4).reshape(2, 2, 1) < 3, 7, GREY)  # three of four pixels


def sentences(images, levels=256, **changes):
    """The warnings about a data set of these images."""
    data = Dataset("mine", images, images[:0], images, levels=levels, checksum="")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        doubtful.warn(Settings(dataset="npz:mine.npz", **changes), data)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("binarization", ["dynamic", "static"])
def test_colours_that_become_bits_are_named_with_the_likelihoods_of_colours(binarization):
    grey_levels = "gaussian, discretized_logistic, discretized_logistic_mixture, categorical"
    for images, levels, names in ((VARYING, 256, grey_levels), (VARYING.astype(np.float32) / 255, 0, "gaussian")):
        [sentence] = sentences(images, levels, binarization=binarization)
        assert sentence == (
            f"--binarization={binarization} draws the 3 channels of --dataset=npz:mine.npz as bits; for colours, choose"
            f" --binarization=none and --likelihood={names}"
        )


def test_grey_images_and_channels_that_are_bits_or_stay_colours_get_no_warning():
    assert not sentences(GREY)
    assert not sentences(VARYING % 2, levels=2)
    assert not sentences(VARYING, binarization="threshold")
    assert not sentences(VARYING, binarization="none", likelihood="discretized_logistic")


@pytest.mark.parametrize("options", ["", ":scale=decoder"])
def test_a_warning_counts_the_constant_pixels_whose_density_has_no_upper_bound(options):
    [sentence] = sentences(CONSTANT, binarization="none", likelihood=f"gaussian{options}")
    assert "because --dataset=npz:mine.npz has pixels with one value in all training images (3 of 4); leave" in sentence
    assert "gaussian:scale=global or gaussian:scale=fixed" in sentence
    assert not sentences(GREY, binarization="none", likelihood=f"gaussian{options}")


@pytest.mark.parametrize("options", ["", ":scale=decoder", ":scale=global"])
def test_a_learned_scale_on_two_values_is_named(options):
    [drawn] = sentences(GREY, likelihood=f"gaussian{options}")
    assert "on the two values of --binarization=dynamic; choose --binarization=none" in drawn
    [bits] = sentences(GREY % 2, levels=2, binarization="none", likelihood=f"gaussian{options}")
    assert "on the two values of --dataset=npz:mine.npz; choose --likelihood=bernoulli with --bin" in bits


def test_what_bounds_the_density_gets_no_warning():
    for likelihood in ("gaussian:scale=fixed", "gaussian:scale=global", "discretized_logistic"):
        assert not sentences(CONSTANT, binarization="none", likelihood=likelihood)
    assert not sentences(GREY, likelihood="gaussian:scale=fixed")


def test_a_sweep_warns_before_it_trains(tmp_path):
    np.savez(tmp_path / "colours.npz", images=VARYING)
    run = Settings(dataset=f"npz:{tmp_path}/colours.npz", batch_size=4, hidden=(3,), latent_dim=(2,))
    with pytest.warns(UserWarning, match="draws the 3 channels"):
        Sweep([run], tmp_path / "sweep", make_options())
