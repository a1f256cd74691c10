"""Prepared TFDS sets, written here as TFDS writes them."""

import sys

import numpy as np
import pytest

from tests.helpers.data_sets import refusal, rows, some_images, write_tfds
from vae.data import load, tfds
from vae.data.on_disk import has_labels
from vae.data.tfds import _fingerprint


def test_tfds_images_are_read_as_they_were_written_and_in_silence(prepared, tmp_path, capfd):
    data = load("faces", prepared, cache_dir=tmp_path)  # version 1.10.0, the newest, in three chunks
    np.testing.assert_array_equal(data.train, some_images(2100))
    np.testing.assert_array_equal(data.test, some_images(20))
    assert (data.levels, len(data.validation)) == (256, 0)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(load("faces:1.9.0", prepared, cache_dir=tmp_path).train, some_images(5))
    assert "tensorflow" not in sys.modules


def test_labels_are_read_once_with_the_images_and_not_where_images_stay_on_disk(prepared, tmp_path, monkeypatch):
    first = load("classes", prepared, validation_size=100, cache_dir=tmp_path)  # in two chunks
    monkeypatch.setattr(tfds, "read_labels", lambda *_: pytest.fail("read again"))
    data = load("classes", prepared, validation_size=100, cache_dir=tmp_path)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(data.labels[split], getattr(data, split)[:, 0, 0, 0] % 5)
        np.testing.assert_array_equal(data.labels[split], first.labels[split])
    assert load("classes", prepared, cache_dir=tmp_path, max_bytes=0).labels is None
    assert load("untested", prepared, cache_dir=tmp_path).labels is None


@pytest.mark.parametrize("content", ["{", "[]", '{"featuresDict": 3}', ""])
def test_features_that_cannot_be_read_are_no_labels(tmp_path, content):
    (tmp_path / "features.json").write_text(content)
    assert not has_labels(tmp_path)
    assert not has_labels(tmp_path / "missing")


def test_the_folder_above_tensorflow_datasets_will_do(prepared, tmp_path):
    (tmp_path / "tensorflow_datasets").symlink_to(prepared)
    np.testing.assert_array_equal(load("faces:1.0.0", tmp_path, cache_dir=tmp_path / "cache").train, some_images(4))


def test_a_set_keeps_its_own_validation_split_and_binary_images_have_two_levels(prepared, tmp_path):
    data = load("binary", prepared, cache_dir=tmp_path)
    np.testing.assert_array_equal(data.validation, some_images(4, 2, 2))
    assert data.levels == 2
    assert "which has 4 validation images" in refusal("binary", prepared, 2, cache_dir=tmp_path)


def test_a_set_without_test_split_gives_it_a_tenth(prepared, tmp_path):
    data = load("untested", prepared, cache_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (27, 3)
    assert rows(data.train, data.test) == rows(some_images(30))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untrained", "has no train split (only test)"),
        ("old", "was prepared as tfrecord, which only tensorflow reads; prepare it as array_record"),
        ("photos", "has no uint8 images of one fixed shape"),
        ("deep", "has no uint8 images of one fixed shape"),
        ("keyed", "has no uint8 images of one fixed shape under the key image"),
        ("faces:2.0.0", "is unknown"),
        ("mnits", "unknown; did you mean mnist"),
        ("MNIST", "unknown; did you mean mnist"),
        ("frey_face", "unknown; did you mean frey_faces"),
        ("", "unknown; choose one of digits, frey_faces, npz:PATH, mnist"),
        ("../faces", "is unknown"),
        ("mnist", "bash scripts/prepare_data.sh mnist /"),
        ("binarized_mnist", "dataset=mnist with binarization=static"),
    ],
)
def test_tfds_sets_that_cannot_be_loaded_are_refused(prepared, tmp_path, name, message):
    sentence = refusal(name, prepared, cache_dir=tmp_path)
    assert message in sentence
    assert sentence.startswith(f"dataset={name}")


def test_tfds_sets_need_a_data_dir():
    assert "dataset=mnist needs data_dir=DIR" in refusal("mnist")
    assert "dataset=mnist needs data_dir=DIR" in refusal("mnist", "")
    assert "is not prepared in data_dir=/does/not/exist" in refusal("mnist", "/does/not/exist")


def test_a_configuration_must_be_chosen_where_there_are_several(tmp_path):
    for config in ("big", "small"):
        write_tfds(tmp_path / "zoo" / config / "1.0.0", {"train": some_images(len(config)), "test": some_images(2)})
    assert "choose dataset=zoo/big or dataset=zoo/small" in refusal("zoo", tmp_path)
    np.testing.assert_array_equal(load("zoo/small", tmp_path).train, some_images(5))


@pytest.mark.parametrize("harm", ["dataset_info.json", "features.json", "shard gone", "shard cut", "wrong shape"])
def test_damaged_prepared_files_are_refused(tmp_path, harm):
    folder = tmp_path / "tiny" / "1.0.0"
    write_tfds(folder, {"train": some_images(4), "test": some_images(2)})
    shard = folder / "tiny-train.array_record-00000-of-00001"
    if harm.endswith("json"):
        (folder / harm).write_text("{")
    elif harm == "shard gone":
        shard.unlink()
    elif harm == "shard cut":
        shard.write_bytes(shard.read_bytes()[:-40])
    else:
        features = (folder / "features.json").read_text()
        (folder / "features.json").write_text(features.replace('"5"', '"6"'))
    sentence = refusal("tiny", tmp_path)
    assert "prepare the set in another folder" in sentence


def test_a_description_that_changes_is_another_fingerprint_also_if_its_size_stays(tmp_path):
    (tmp_path / "features.json").write_text('{"a": 1}')
    first = _fingerprint(tmp_path)
    assert first == _fingerprint(tmp_path)
    (tmp_path / "features.json").write_text('{"a": 2}')
    assert first != _fingerprint(tmp_path)
