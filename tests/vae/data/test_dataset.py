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
        (dict(train=IMAGES.astype(np.float32)), "whole numbers from .* to 2.*floats, which must be 0 to 1"),
        (dict(train=IMAGES[..., 0]), r"train is uint8 of shape \[8, 5, 4\]; it must be \[N, H, W, C\]"),
        (dict(train=IMAGES, levels=17), "train has the grey level 2.*below levels=17"),
        (dict(train=IMAGES, test=IMAGES[:, :4]), r"differ in .*train uint8 \[8, 5, 4, 1\], test uint8 \[8, 4, 4, 1\]"),
        (dict(train=np.zeros((6, 3, 32, 32), np.uint8)), r"images of shape \[3, 32, 32\], whose channels seem to come"),
    ],
)
def test_what_would_train_to_wrong_numbers_is_refused(splits, sentence, mine):
    with pytest.raises(ValueError, match=f"^dataset=mine: .*{sentence}"):
        mine(**splits)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"train": np.arange(7)}, r"the labels of train are int64 of shape \[7\].*one for each of its 8 images"),
        ({"train": np.arange(8.0)}, "the labels of train are float64"),
        ({"train": np.eye(8, dtype=int)}, r"the labels of train are int64 of shape \[8, 8\]"),
        ({}, r"the labels of train are .* of shape \[0\]"),
        ({"train": np.arange(8), "test": np.arange(3)}, "the labels of test .*one for each of its 0 images"),
    ],
)
def test_labels_that_are_not_one_class_for_each_image_are_refused(labels, sentence, mine):
    with pytest.raises(ValueError, match=f"^dataset=mine: {sentence}"):
        mine(train=IMAGES, labels=labels)


def test_labels_follow_their_images_into_every_split(mine):
    """The label of an image is its first pixel. Binarization changes pixels, and no labels."""
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    splits = dict(train=images, labels={"train": images[:, 0, 0, 0]})
    mine(**splits)
    cut = data.load("mine", validation_size=3)
    assert {split: len(labels) for split, labels in cut.labels.items()} == {"train": 6, "validation": 3, "test": 1}
    for split, labels in cut.labels.items():
        np.testing.assert_array_equal(labels, getattr(cut, split)[:, 0, 0, 0])
    for binarization in ("static", "dynamic"):
        assert data.fix_binarization(cut, binarization).labels is cut.labels
    assert data.load("mine", validation_size=0).labels["validation"].shape == (0,)


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
