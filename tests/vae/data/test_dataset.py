"""A data set of one's own: its name is its own, and arrays that would train to wrong numbers are refused."""

import hashlib

import numpy as np
import pytest

from vae import data
from vae.data import Splits
from vae.data.dataset import make_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 5, 4, 1), dtype=np.uint8)


@pytest.fixture
def mine(restored_tables):
    """Adds a data set called `mine`, and loads it."""

    def load(**splits):
        data.add("mine", lambda data_dir: Splits(**splits))
        return data.load("mine")

    return load


def test_a_data_set_that_is_added_is_loaded_by_its_name(mine):
    np.testing.assert_array_equal(mine(train=IMAGES, test=IMAGES[:3]).test, IMAGES[:3])


def test_a_name_that_is_taken_is_refused(mine):
    mine(train=IMAGES)
    for name in ("mine", "digits"):
        with pytest.raises(ValueError, match=f"the data set {name} exists already"):
            data.add(name, lambda data_dir: Splits(train=IMAGES))


@pytest.mark.parametrize("channels", [2, 4, 10])
def test_images_of_any_number_of_channels_are_loaded(channels, mine):
    assert mine(train=np.zeros((6, 9, 7, channels), np.uint8)).train.shape[1:] == (9, 7, channels)


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (dict(train=IMAGES.astype(float)), "train is float64 of shape .*uint8, float32 or int32"),
        (dict(train=IMAGES.astype(np.int64)), "train is int64 of shape"),
        (dict(train=IMAGES.astype(np.float32)), "values from .* to 2.*floats must be 0 to 1"),
        (dict(train=IMAGES[..., 0]), r"train is uint8 of shape \[8, 5, 4\]; it must be \[N, H, W, C\]"),
        (dict(train=IMAGES, levels=17), "train has the grey level 2.*below levels=17"),
        (dict(train=IMAGES, test=IMAGES[:, :4]), r"differ in .*train uint8 \[8, 5, 4, 1\], test uint8 \[8, 4, 4, 1\]"),
        (dict(train=np.zeros((6, 3, 32, 32), np.uint8)), r"images of shape \[3, 32, 32\], whose channels seem to come"),
    ],
)
def test_what_would_train_to_wrong_numbers_is_refused(splits, sentence, mine):
    with pytest.raises(ValueError, match=f"^dataset=mine: .*{sentence}"):
        mine(**splits)


def test_one_split_with_more_than_two_levels_makes_all_grey(mine):
    bits = np.round(IMAGES / 255).astype(np.uint8)
    assert mine(train=bits, test=IMAGES).levels == 256


@pytest.mark.parametrize("validation_size", [0, 3])
def test_the_identifier_of_files_names_the_images_for_training(validation_size):
    """Each image shows its number. Binarization in advance makes other images, which have no files."""
    numbers = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    images = make_dataset("mine", Splits(train=numbers, levels=256, files="abc"), validation_size)
    assert len(images.train) == 36 - validation_size
    digest = hashlib.sha256(images.train.reshape(-1).astype(np.int64).tobytes()).hexdigest()
    assert images.files == f"abc train {digest}".encode()
    assert data.fix_binarization(images, "dynamic").files == images.files
    fixed = data.fix_binarization(images, "static")
    assert (fixed.files, fixed.files_checksum) == (b"", "")
