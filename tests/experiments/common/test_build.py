"""The images that the functions of a run receive."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.settings import Settings
from vae import data

GREY = np.full((4, 8, 8, 1), 8, np.uint8)
DATA = data.Dataset("grey", GREY, GREY[:0], GREY, levels=17, checksum="0")
RUN = Settings(hidden=(4,), latent_dim=(2,), batch_size=4)


def test_the_pixels_of_a_step_are_those_of_a_measurement(monkeypatch):
    """One function makes both, so black images of that function are black in both."""

    def figures():
        functions, values = build.functions(RUN, DATA), build.arrays(RUN)
        _, metrics = functions.epoch(functions.init(values), values, DATA.train)
        return float(metrics["bound"]), build.first_batch(RUN, DATA, "train", 4)

    bound, x = figures()
    assert set(np.unique(x)) == {0.0, 1.0}
    monkeypatch.setattr(build, "training_pixels", lambda run, data, key, images: jnp.zeros(images.shape))
    bound_of_black, black = figures()
    assert not black.any()
    assert bound_of_black != bound


def test_images_that_are_streamed_cannot_be_binarized_once(monkeypatch):
    run = Settings(dataset="mnist", binarization="static")
    monkeypatch.setattr(build.datasets, "load", lambda *arguments: SimpleNamespace(train=object()))
    with pytest.raises(
        ValueError, match=r"^--binarization=static cannot be used while --dataset=mnist is streamed; .*off$"
    ):
        build._load.__wrapped__(run.choice("dataset"), run.binarization, 0, None, None, 0)
