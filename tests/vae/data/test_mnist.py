"""MNIST, where it is prepared."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.data_sets import rows
from vae.data import load

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"


def idx_md5(images, split):
    """md5 of the images as the uncompressed file of the original distribution: magic number, sizes, pixels.

    TFDS stores example i at the rank of md5(split + i); this puts the images back into the original order.
    """
    rank = sorted(range(len(images)), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    original = np.zeros_like(images)
    original[rank] = images
    return hashlib.md5(struct.pack(">4i", 2051, *images.shape[:3]) + original.tobytes()).hexdigest()


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    if not (SHARED / "tensorflow_datasets" / "mnist").is_dir():
        pytest.skip(f"MNIST is not prepared in {SHARED}")
    cache = tmp_path_factory.mktemp("cache")
    return load("mnist", SHARED, cache_dir=cache), cache


def test_mnist_is_byte_for_byte_the_original(mnist):
    data, cache = mnist
    assert idx_md5(data.train, "train") == "6bbc9ace898e44ae57da46a324031adb"
    assert idx_md5(data.test, "test") == "2646ac647ad5339dbf082846283269ea"
    assert (data.levels, len(data.validation)) == (256, 0)
    # the number of images of each class, as LeCun's page of MNIST states them
    assert np.bincount(data.labels["test"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.labels["train"])[[0, 1, 9]].tolist() == [5923, 6742, 5949]
    again = load("mnist", SHARED / "tensorflow_datasets", cache_dir=cache)
    assert again.checksum == data.checksum
    held = load("mnist", SHARED, validation_size=10000, cache_dir=cache)
    assert [len(images) for images in held[1:4]] == [50000, 10000, 10000]
    assert rows(held.train, held.validation) == rows(data.train)
