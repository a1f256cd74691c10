"""Training images that stay on disk."""

import errno
import json

import numpy as np
import pytest

from tests.helpers.data_sets import one_sentence, rows, some_images, write_tfds
from vae.data import fix_binarization, load, mean_image
from vae.data.on_disk import _check_features


def test_a_training_split_that_is_too_large_stays_on_disk(prepared, tmp_path):
    here, there = (
        load("faces", prepared, 100, cache_dir=tmp_path, max_bytes=size) for size in (2100 * 20, 2100 * 20 - 1)
    )
    assert isinstance(here.train, np.ndarray)
    assert not isinstance(there.train, np.ndarray)
    assert (there.train.shape, there.train.dtype, len(there.train)) == (here.train.shape, np.uint8, 2000)
    order = np.random.default_rng(0).permutation(2000)
    np.testing.assert_array_equal(there.train[order], here.train[order])
    np.testing.assert_array_equal(there.train[5:9], here.train[5:9])
    np.testing.assert_array_equal(there.validation, here.validation)
    assert mean_image(there) == mean_image(here)
    assert there.checksum != load("faces", prepared, cache_dir=tmp_path, max_bytes=0).checksum
    assert there.checksum == there.files_checksum == here.files_checksum != here.checksum
    dynamic = fix_binarization(there, "dynamic")
    assert dynamic.checksum == fix_binarization(here, "dynamic").files_checksum != there.checksum
    assert fix_binarization(here, "static").files_checksum == ""
    assert dynamic.train is there.train
    np.testing.assert_array_equal(dynamic.test, fix_binarization(here, "dynamic").test)
    with pytest.raises(ValueError, match="choose binarization=dynamic, or load the set with a larger max_bytes"):
        fix_binarization(there, "static")


def test_of_a_set_on_disk_a_tenth_is_decoded_for_the_test(prepared, tmp_path):
    data = load("untested", prepared, cache_dir=tmp_path, max_bytes=0)
    assert data.checksum == load("untested", prepared, cache_dir=tmp_path).files_checksum
    assert rows(data.train[np.arange(27)], data.test) == rows(some_images(30))
    held = load("untested", prepared, 5, cache_dir=tmp_path, max_bytes=0)
    assert rows(held.train[np.arange(22)], held.validation, held.test) == rows(some_images(30))


@pytest.mark.parametrize(
    "around", [lambda each: {"image": each}, lambda each: [each], json.dumps], ids=["object", "list", "text"]
)
def test_a_class_of_others_is_refused_wherever_the_features_name_it(around):
    described = lambda name: {"type": "tensorflow_datasets.core.Dict", "content": around({"pythonClassName": name})}
    _check_features(described("tensorflow_datasets.core.features.Image"))
    with pytest.raises(ValueError, match="a class that does not belong to TFDS, 'mine.Image'"):
        _check_features(described("mine.Image"))


def test_images_that_are_damaged_later_are_one_sentence_and_what_the_system_says_is_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "tiny" / "1.0.0"
    write_tfds(folder, {"train": some_images(40), "test": some_images(2)})
    images = load("tiny", tmp_path, max_bytes=0).train
    np.testing.assert_array_equal(images[:2], some_images(40)[:2])
    with open(folder / "tiny-train.array_record-00000-of-00001", "r+b") as shard:
        shard.seek(1000)
        shard.write(bytes(3000))
    with pytest.raises(OSError, match="cannot be read") as caught:
        images[np.arange(40)]
    assert caught.value.errno is None
    assert "repair the files, or prepare the set in another folder" in one_sentence(caught.value)

    class Gone:
        def __getitems__(self, indices):
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(images, "_source", Gone())
    with pytest.raises(OSError, match=r"^\[Errno 116\] Stale file handle$"):
        images[np.arange(2)]
