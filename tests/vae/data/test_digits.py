"""The digits, and validation images that are held out of a training split."""

import numpy as np
import pytest

from tests.helpers.data_sets import refusal, rows
from vae.data import load


def test_digits_are_scikit_learns_and_split_for_ever_in_one_way():
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert digits.train.dtype == digits.test.dtype == np.uint8
    assert [images.shape for images in digits[1:4]] == [(1500, 8, 8, 1), (0, 8, 8, 1), (297, 8, 8, 1)]
    assert rows(digits.train, digits.test) == rows(load_digits().images.astype(np.uint8))
    assert (digits.levels, digits.train.max()) == (17, 16)
    with_class = lambda images, labels: rows(np.column_stack([images.reshape(-1, 64), labels]).astype(np.uint8))
    own = [with_class(getattr(digits, split), digits.labels[split]) for split in ("train", "test")]
    assert sorted(own[0] + own[1]) == with_class(load_digits().images, load_digits().target)
    assert digits.checksum == "9469885b7993cbd0707fc52e773fb9eca66c21976be4635caf39a91bb9f44cda"


def test_validation_images_are_held_out_of_the_training_images():
    whole, cut = load("digits"), load("digits", validation_size=200)
    assert (len(cut.train), len(cut.validation)) == (1300, 200)
    assert rows(cut.train, cut.validation) == rows(whole.train)
    np.testing.assert_array_equal(cut.test, whole.test)
    assert cut.checksum == load("digits", validation_size=200).checksum != whole.checksum


@pytest.mark.parametrize("size", [-1, 1500, 10**9])
def test_impossible_validation_sizes_are_refused(size):
    assert f"validation_size={size} must be 0 to 1499" in refusal("digits", validation_size=size)
