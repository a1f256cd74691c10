"""Data sets: exact contents, exact splits, exact binarization, and a sentence for everything that cannot be loaded."""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vae import data as datasets
from vae.data import Dataset, binarize, fix_binarization, load, pixels
from vae.data import tfds as tfds_images

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
KEY = jax.random.key(0)


def refusal(name, *args, **kwargs):
    """The one sentence with which `load` refuses; it must name the flag."""
    with pytest.raises((ValueError, OSError)) as caught:
        load(name, *args, **kwargs)
    return one_sentence(caught.value)


def one_sentence(error):
    message = str(error)
    assert message.startswith("--")
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def rows(*splits):
    """The images of all splits in a canonical order, to compare sets of images."""
    return sorted(image.tobytes() for images in splits for image in images)


# --- digits


def test_digits_are_scikit_learns_and_split_for_ever_in_one_way():
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert digits.train.dtype == digits.test.dtype == np.uint8
    assert [images.shape for images in digits[1:4]] == [(1500, 8, 8, 1), (0, 8, 8, 1), (297, 8, 8, 1)]
    assert rows(digits.train, digits.test) == rows(load_digits().images.astype(np.uint8))
    assert (digits.levels, digits.train.max()) == (17, 16)
    assert digits.checksum == "9469885b7993cbd0707fc52e773fb9eca66c21976be4635caf39a91bb9f44cda"


def test_validation_images_are_held_out_of_the_training_images():
    whole, cut = load("digits"), load("digits", validation_size=200)
    assert (len(cut.train), len(cut.validation)) == (1300, 200)
    assert rows(cut.train, cut.validation) == rows(whole.train)
    np.testing.assert_array_equal(cut.test, whole.test)
    assert cut.checksum == load("digits", validation_size=200).checksum != whole.checksum


@pytest.mark.parametrize("size", [-1, 1500, 10**9])
def test_impossible_validation_sizes_are_refused(size):
    assert f"--validation_size={size} must be 0 to 1499" in refusal("digits", validation_size=size)


# --- pixels and binarization


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_are_the_grey_level_over_the_largest(levels):
    images = np.arange(levels, dtype=np.uint8)
    expected = np.arange(levels) / (levels - 1)
    for got in (pixels(images, levels), jax.jit(lambda x: pixels(x, levels))(images)):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=2e-7, atol=0)
        assert (got[0], got[-1]) == (0, 1)
    assert isinstance(pixels(images, levels), np.ndarray)


def test_float_pixels_pass_through():
    x = np.linspace(0, 1, 5, dtype=np.float32)
    assert pixels(x, 0) is x
    np.testing.assert_array_equal(jax.jit(lambda x: pixels(x, 0))(x), x)


def test_binarize_draws_each_pixel_with_its_own_probability():
    x = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
    draws = np.asarray(jax.vmap(lambda key: binarize(key, x))(jax.random.split(KEY, 20000)))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0, 1}
    stderr = np.sqrt(x * (1 - x) / len(draws))
    assert np.all(np.abs(draws.mean(0) - x) <= 4.5 * stderr)
    np.testing.assert_array_equal(binarize(KEY, x), jax.jit(binarize)(KEY, x))


def z_score_of_residuals(images, ink, levels):
    """Of sum of (ink - pixel) weighed by (pixel - 1/2): 0 on average if P(ink) is the pixel, and far away if not."""
    p = pixels(images, levels).astype(np.float64)
    weight = p - 0.5
    variance = np.sum(weight**2 * p * (1 - p))
    return np.sum(weight * (pixels(ink, levels) - p)) / np.sqrt(variance)


def grey(levels, size=4000):
    rng = np.random.default_rng(1)
    draw = lambda n: (
        rng.integers(0, levels, (n, 3, 2, 1), dtype=np.uint8) if levels else rng.random((n, 3, 2, 1), np.float32)
    )
    return Dataset("grey", draw(size), draw(size // 4), draw(size // 2), levels, "")


@pytest.mark.parametrize("levels", [0, 17, 256])
def test_static_binarization_is_one_unbiased_draw(levels):
    data = grey(levels)
    fixed = fix_binarization(data, "static", seed=3)
    for images, ink in zip(data[1:4], fixed[1:4], strict=True):
        assert (ink.dtype, ink.shape) == (images.dtype, images.shape)
        assert set(np.unique(pixels(ink, levels))) == {0, 1}
        assert abs(z_score_of_residuals(images, ink, levels)) < 4.5
    thresholded = fix_binarization(data, "threshold").train
    assert abs(z_score_of_residuals(data.train, thresholded, levels)) > 45  # the control: the check can fail
    assert np.all(fixed.train[data.train == max(levels - 1, 1)] > 0)
    assert not fixed.train[data.train == 0].any()


def test_binarization_depends_on_the_seed_and_the_split_alone():
    a, b = load("digits"), load("digits", validation_size=100)
    first = fix_binarization(a, "static", seed=5)
    assert first.checksum == fix_binarization(a, "static", seed=5).checksum
    assert first.checksum != fix_binarization(a, "static", seed=6).checksum != a.checksum
    np.testing.assert_array_equal(first.test, fix_binarization(b, "static", seed=5).test)
    assert first.checksum == "373ae747e3d908b87b9d0efe41c02c269360c56360ed651e033575ae9f98f315"


def test_dynamic_binarization_leaves_train_grey_and_fixes_the_rest():
    data = load("digits", validation_size=100)
    dynamic, static = fix_binarization(data, "dynamic", seed=2), fix_binarization(data, "static", seed=2)
    assert dynamic.train is data.train
    np.testing.assert_array_equal(dynamic.validation, static.validation)
    np.testing.assert_array_equal(dynamic.test, static.test)
    assert set(np.unique(dynamic.test)) == {0, 16}


def test_threshold_is_at_one_half():
    digits = grey(17)
    np.testing.assert_array_equal(fix_binarization(digits, "threshold").train, np.where(digits.train >= 8, 16, 0))
    photos = grey(256)
    np.testing.assert_array_equal(fix_binarization(photos, "threshold").train, np.where(photos.train >= 128, 255, 0))
    halves = Dataset("halves", *[np.array([[[[0.5]]], [[[0.49]]]], np.float32)] * 3, 0, "")
    assert fix_binarization(halves, "threshold").train.ravel().tolist() == [1, 0]


def test_binary_images_stay_as_they_are_under_every_binarization():
    data = grey(2)
    for binarization in datasets.BINARIZATIONS:
        for got, expected in zip(fix_binarization(data, binarization)[1:4], data[1:4], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_none_changes_nothing_and_other_names_are_refused():
    data = load("digits")
    assert fix_binarization(data, "none") is data
    with pytest.raises(
        ValueError, match="--binarization=otsu is not one of none, dynamic, static, threshold"
    ) as caught:
        fix_binarization(data, "otsu")
    one_sentence(caught.value)


# --- npz:PATH


def save(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_npz_keeps_uint8_images_and_their_splits(tmp_path):
    rng = np.random.default_rng(0)
    train, validation, test = (rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8) for n in (6, 3, 2))
    data = load(save(tmp_path, train=train, validation=validation, test=test, labels=np.arange(6)))
    for got, expected in zip(data[1:4], (train, validation, test), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert data.levels == 256
    assert load(data.name, validation_size=3).checksum == data.checksum  # what the set has
    assert "--validation_size=2 must be 0" in refusal(data.name, validation_size=2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5), (4, 5, 1)), ((4, 5, 3), (4, 5, 3)), ((784,), (28, 28, 1)), ((10,), (1, 10, 1)), ((1,), (1, 1, 1))],
)
def test_npz_layouts(tmp_path, shape, expected):
    train, test = np.random.default_rng(0).random((2, 3, *shape))
    data = load(save(tmp_path, x_train=train, x_test=test, y_train=np.arange(3)))
    np.testing.assert_array_equal(data.train, train.astype(np.float32).reshape(3, *expected))
    np.testing.assert_array_equal(data.test, test.astype(np.float32).reshape(3, *expected))
    assert (data.train.dtype, data.levels) == (np.float32, 0)


def test_npz_with_images_alone_gives_a_tenth_to_the_test(tmp_path):
    images = np.arange(50 * 4, dtype=np.uint8).reshape(50, 2, 2)
    data = load(save(tmp_path, images=images), validation_size=7)
    assert [len(split) for split in data[1:4]] == [38, 7, 5]
    assert rows(*data[1:4]) == rows(images)
    assert "has one image" in refusal(save(tmp_path, images=images[:1]))


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_npz_of_zeros_and_ones_has_two_levels(tmp_path, dtype):
    images = np.random.default_rng(0).integers(0, 2, (20, 3, 3)).astype(dtype)
    data = load(save(tmp_path, train=images, test=images))
    assert (data.levels, data.train.dtype) == (2, np.uint8)
    np.testing.assert_array_equal(pixels(data.train, 2)[..., 0], images)


GOOD = np.zeros((4, 2, 2), np.uint8)
BAD = {
    "nan": (dict(train=np.full((2, 2, 2), np.nan), test=np.zeros((2, 2, 2))), "8 NaN pixels"),
    "signaling nan": (dict(images=np.full((2, 2), 0x7FA00000, np.uint32).view(np.float32)), "NaN pixels"),
    "above one": (dict(images=np.full((4, 2, 2), 255.0)), "values from 255.0 to 255.0"),
    "below zero": (dict(images=np.full((4, 2, 2), -0.1)), "floats must be 0 to 1"),
    "infinite": (dict(images=np.full((4, 2, 2), np.inf)), "values from inf"),
    "int64": (dict(images=np.zeros((4, 2, 2), np.int64)), "is int64, and must be uint8"),
    "complex": (dict(images=np.zeros((4, 2, 2), complex)), "is complex128, and must be"),
    "text": (dict(images=np.full((4, 2), "a")), "must be uint8"),
    "one axis": (dict(images=np.zeros(4, np.uint8)), "has shape [4]"),
    "five axes": (dict(images=np.zeros((1, 1, 1, 1, 1), np.uint8)), "has shape [1, 1, 1, 1, 1]"),
    "empty": (dict(train=GOOD, test=GOOD[:0]), "test has shape [0, 2, 2]"),
    "two shapes": (dict(train=GOOD, test=GOOD[:, :1]), "differ in dtype or image shape"),
    "two dtypes": (dict(train=GOOD, test=GOOD.astype(float)), "train uint8 [4, 2, 2], test float64 [4, 2, 2]"),
    "bytes and bits": (dict(train=GOOD, test=GOOD.astype(bool)), "differ in dtype"),
    "no test": (dict(train=GOOD), "the file holds train, and must hold train and test"),
    "no known key": (dict(data=GOOD, target=GOOD), "the file holds data, target"),
    "nothing": ({}, "the file holds nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_npz_that_are_not_images_are_refused(tmp_path, case):
    arrays, message = BAD[case]
    name = save(tmp_path, **arrays)
    sentence = refusal(name)
    assert message in sentence
    assert name in sentence


def test_npz_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = tmp_path / "bomb.npz"
    np.savez(path, train=np.array([Bomb()], object), test=np.array([Bomb()], object))
    assert "Object arrays cannot be loaded" in refusal(f"npz:{path}")
    path.write_bytes(pickle.dumps(Bomb()))
    assert "cannot be read as .npz" in refusal(f"npz:{path}")
    assert not (tmp_path / "exploded").exists()


def test_npz_files_that_are_missing_or_damaged_are_refused(tmp_path):
    assert "there is no such file" in refusal(f"npz:{tmp_path / 'none.npz'}")
    assert "there is no such file" in refusal(f"npz:{tmp_path}")
    assert "there is no such file" in refusal("npz:")
    path = Path(save(tmp_path, train=GOOD, test=GOOD).removeprefix("npz:"))
    path.write_bytes(path.read_bytes()[:-30])
    assert "cannot be read as .npz" in refusal(f"npz:{path}")
    np.save(tmp_path / "single.npy", GOOD)
    assert "cannot be read as .npz" in refusal(f"npz:{tmp_path / 'single.npy'}")


def assert_loads_or_refuses(path):
    try:
        data = load(f"npz:{path}")
    except ValueError as error:
        one_sentence(error)
        return
    for images in (data.train, data.test):
        x = pixels(images, data.levels)
        assert x.dtype == np.float32
        assert x.ndim == 4
        assert x.size
        assert x.min() >= 0
        assert x.max() <= 1


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_load_or_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.npz"
    path.write_bytes(content)
    assert_loads_or_refuses(path)


@settings(max_examples=100, deadline=None)
@given(where=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_changed_byte_loads_or_is_refused(tmp_path_factory, where, value):
    stream = io.BytesIO()
    np.savez(stream, train=GOOD, test=GOOD)
    content = bytearray(stream.getvalue())
    content[where % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(content)
    assert_loads_or_refuses(path)


ANY_ARRAY = hnp.arrays(
    st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.boolean_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
)


@settings(max_examples=100, deadline=None)
@given(
    arrays=st.dictionaries(st.sampled_from(["train", "test", "validation", "images", "x_train", "x_test"]), ANY_ARRAY)
)
def test_any_arrays_load_or_are_refused(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    np.savez(path, **arrays)
    assert_loads_or_refuses(path)


# --- TFDS: sets written here, as TFDS writes them, and MNIST


def write_tfds(folder, splits, *, feature=None, file_format="array_record", key="image"):
    """A prepared TFDS set called `folder.parent.name` without tensorflow; splits: {name: uint8 [N, H, W, C]}."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    name = folder.relative_to(folder.parents[1]).parts[0]
    folder.mkdir(parents=True)
    shape = next(iter(splits.values())).shape[1:]
    image = {
        "image": feature or {"dtype": "uint8", "shape": {"dimensions": [str(side) for side in shape]}},
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    }
    info = {"name": name, "version": folder.name, "fileFormat": file_format, "splits": []}
    for split, images in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for pixel in images:
            png = io.BytesIO()
            Image.fromarray(pixel[..., 0]).save(png, "png")
            example = tf_example_pb2.Example()
            example.features.feature[key].bytes_list.value.append(png.getvalue())
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info["splits"].append({"name": split, "shardLengths": [str(len(images))], "filepathTemplate": template})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {key: image}},
    }
    (folder / "features.json").write_text(json.dumps(features))


def some_images(n, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (n, 5, 4, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the sets that the tests below read."""
    root = tmp_path_factory.mktemp("prepared")
    write_tfds(root / "faces" / "1.0.0", {"train": some_images(4), "test": some_images(2)})
    write_tfds(
        root / "faces" / "1.10.0", {"train": some_images(2100), "test": some_images(20), "extra": some_images(1)}
    )
    write_tfds(root / "faces" / "1.9.0", {"train": some_images(5), "test": some_images(2)})
    three = {"train": some_images(9, 1, 2), "validation": some_images(4, 2, 2), "test": some_images(5, 3, 2)}
    write_tfds(root / "binary" / "1.0.0", three)
    write_tfds(root / "untested" / "1.0.0", {"train": some_images(30)})
    write_tfds(root / "untrained" / "1.0.0", {"test": some_images(3)})
    write_tfds(root / "old" / "1.0.0", {"train": some_images(3)}, file_format="tfrecord")
    write_tfds(
        root / "photos" / "1.0.0",
        {"train": some_images(3)},
        feature={"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    )
    write_tfds(
        root / "deep" / "1.0.0",
        {"train": some_images(3)},
        feature={"dtype": "uint16", "shape": {"dimensions": ["5", "4", "1"]}},
    )
    write_tfds(root / "keyed" / "1.0.0", {"train": some_images(3)}, key="picture")
    return root


def test_tfds_images_are_read_as_they_were_written_and_in_silence(prepared, tmp_path, capfd):
    data = load("faces", prepared, cache_dir=tmp_path)  # version 1.10.0, the newest, in three chunks
    np.testing.assert_array_equal(data.train, some_images(2100))
    np.testing.assert_array_equal(data.test, some_images(20))
    assert (data.levels, len(data.validation)) == (256, 0)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(load("faces:1.9.0", prepared, cache_dir=tmp_path).train, some_images(5))
    assert "tensorflow" not in sys.modules


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
    assert datasets.mean_image(there) == datasets.mean_image(here)
    assert there.checksum != load("faces", prepared, cache_dir=tmp_path, max_bytes=0).checksum
    assert there.checksum == there.files_checksum == here.files_checksum != here.checksum
    dynamic = fix_binarization(there, "dynamic")
    assert dynamic.checksum == fix_binarization(here, "dynamic").files_checksum != there.checksum
    assert fix_binarization(here, "static").files_checksum == ""
    assert dynamic.train is there.train
    np.testing.assert_array_equal(dynamic.test, fix_binarization(here, "dynamic").test)
    with pytest.raises(ValueError, match="take dynamic, or --streaming=off"):
        fix_binarization(there, "static")


def test_of_a_set_on_disk_a_tenth_is_decoded_for_the_test(prepared, tmp_path):
    data = load("untested", prepared, cache_dir=tmp_path, max_bytes=0)
    assert data.checksum == load("untested", prepared, cache_dir=tmp_path).files_checksum
    assert rows(data.train[np.arange(27)], data.test) == rows(some_images(30))


def test_decoded_images_are_cached_and_the_cache_is_an_ordinary_npy(prepared, tmp_path, monkeypatch):
    first = load("faces", prepared, cache_dir=tmp_path)
    (file,) = tmp_path.glob("faces-*-train.npy")
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), first.train)
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr(tfds_images.OnDisk, "decoded", lambda self: pytest.fail("decoded twice"))
    assert load("faces", prepared, cache_dir=tmp_path).checksum == first.checksum


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "header", "other array", "text"])
def test_a_damaged_cache_is_noticed_said_and_built_again(prepared, tmp_path, caplog, harm):
    first = load("faces", prepared, cache_dir=tmp_path)
    (file,) = tmp_path.glob("faces-*-train.npy")
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    other = io.BytesIO()
    np.save(other, first.test)
    harmed = {"flip": content, "cut": content[:-9], "empty": b"", "other array": other.getvalue(), "text": b"hello"}
    harmed["header"] = file.read_bytes().replace(b"(2100, 5, 4, 1)", b"(1050, 5, 8, 1)", 1)
    assert harmed[harm] != file.read_bytes()
    file.write_bytes(harmed[harm])
    with caplog.at_level(logging.WARNING):
        assert load("faces", prepared, cache_dir=tmp_path).checksum == first.checksum
    assert f"the cache {file} cannot be used" in caplog.text
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), first.train)


def test_a_cache_that_cannot_be_read_is_said_and_the_images_load(prepared, tmp_path, caplog, monkeypatch):
    first = load("faces", prepared, cache_dir=tmp_path)
    read = Path.read_bytes

    def forbidden(path):
        if path.name.startswith("faces-"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)  # root may read whatever it wants
    assert load("faces", prepared, cache_dir=tmp_path).checksum == first.checksum
    assert "Permission denied" in caplog.text
    assert caplog.text.count("cannot be used") == 2  # train and test


def test_the_cache_lies_beside_the_data_or_where_they_are_read_only_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "tiny" / "1.0.0"
    write_tfds(folder, {"train": some_images(4), "test": some_images(2)})
    load("tiny", tmp_path / "data")
    assert len(list(folder.glob("tiny-*.npy"))) == 2
    for file in folder.glob("*.npy"):
        file.unlink()
    folder.chmod(0o555)
    try:
        load("tiny", tmp_path / "data")
        assert not list(folder.glob("*.npy"))
        assert len(list((tmp_path / "cache" / "vae").glob("tiny-*.npy"))) == 2
    finally:
        folder.chmod(0o755)


def test_without_a_place_for_the_cache_the_images_load_all_the_same(prepared, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    data = load("faces:1.0.0", prepared, cache_dir=tmp_path / "file")
    np.testing.assert_array_equal(data.train, some_images(4))
    assert "cannot be written, so the next run decodes the images again" in caplog.text


def test_a_set_prepared_anew_is_decoded_anew(tmp_path):
    for seed, root in enumerate((tmp_path / "a", tmp_path / "b")):
        write_tfds(root / "tiny" / "1.0.0", {"train": some_images(4 + seed, seed), "test": some_images(2)})
        data = load("tiny", root, cache_dir=tmp_path / "cache")
        np.testing.assert_array_equal(data.train, some_images(4 + seed, seed))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untrained", "has no train split (only test)"),
        ("old", "was prepared as tfrecord, which only tensorflow reads, so prepare it as array_record"),
        ("photos", "has no uint8 images of one fixed shape"),
        ("deep", "has no uint8 images of one fixed shape"),
        ("keyed", "has no uint8 images of one fixed shape under the key image"),
        ("faces:2.0.0", "is not known"),
        ("mnits", "near it: mnist"),
        ("MNIST", "near it: mnist"),
        ("frey_face", "near it: frey_faces"),
        ("", "near it: digits, frey_faces, npz:PATH, mnist"),
        ("../faces", "is not known"),
        ("mnist", "bash scripts/prepare_data.sh mnist /"),
        ("binarized_mnist", "--dataset=mnist --binarization=static"),
    ],
)
def test_tfds_sets_that_cannot_be_loaded_are_refused(prepared, tmp_path, name, message):
    sentence = refusal(name, prepared, cache_dir=tmp_path)
    assert message in sentence
    assert sentence.startswith(f"--dataset={name}")


def test_tfds_sets_need_a_data_dir():
    assert "--dataset=mnist needs --data_dir=DIR" in refusal("mnist")
    assert "--dataset=mnist needs --data_dir=DIR" in refusal("mnist", "")
    assert "is not prepared in --data_dir=/does/not/exist" in refusal("mnist", "/does/not/exist")


def test_a_configuration_must_be_chosen_where_there_are_several(tmp_path):
    for config in ("big", "small"):
        write_tfds(tmp_path / "zoo" / config / "1.0.0", {"train": some_images(len(config)), "test": some_images(2)})
    assert "choose --dataset=zoo/big or --dataset=zoo/small" in refusal("zoo", tmp_path)
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
    assert "so mend the files, or prepare the set in another folder" in one_sentence(caught.value)

    class Gone:
        def __getitems__(self, indices):
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(images, "_source", Gone())
    with pytest.raises(OSError, match=r"^\[Errno 116\] Stale file handle$"):
        images[np.arange(2)]


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
    again = load("mnist", SHARED / "tensorflow_datasets", cache_dir=cache)
    assert again.checksum == data.checksum
    held = load("mnist", SHARED, validation_size=10000, cache_dir=cache)
    assert [len(images) for images in held[1:4]] == [50000, 10000, 10000]
    assert rows(held.train, held.validation) == rows(data.train)


# --- Frey faces


def test_frey_faces_are_split_as_in_the_literature():
    if not (SHARED / "frey_faces.npz").is_file():
        pytest.skip(f"frey_faces.npz is not in {SHARED}")
    data = load("frey_faces", SHARED)
    assert [images.shape for images in data[1:4]] == [(1565, 28, 20, 1), (200, 28, 20, 1), (200, 28, 20, 1)]
    with np.load(SHARED / "frey_faces.npz") as file:
        assert rows(*data[1:4]) == rows(file["images"])
    assert min(images.min() for images in data[1:4]) == 8
    assert max(images.max() for images in data[1:4]) == 238
    assert data.checksum == "63f10f007e55d0b385813709ca31f660c1ecd36a29d07cf502d44b20a1bdce19"


def test_frey_faces_that_are_missing_or_changed_are_refused(tmp_path):
    assert "needs --data_dir=DIR" in refusal("frey_faces")
    assert f"there is no frey_faces.npz in --data_dir={tmp_path}" in refusal("frey_faces", tmp_path)
    path = tmp_path / "frey_faces.npz"
    np.savez(path, images=np.zeros((1965, 28, 20, 1), np.uint8))
    assert "their sha256 is not 2438ba4f0d2a" in refusal("frey_faces", tmp_path)
    for damaged in (path.read_bytes()[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        assert f"{path} cannot be read" in refusal("frey_faces", tmp_path)


def test_frey_faces_may_be_converted_from_the_matrix_that_was_published(tmp_path):
    """As README.md says it is done: `ff` has a column an image, its rows one after the other."""
    if not (SHARED / "frey_faces.npz").is_file():
        pytest.skip(f"frey_faces.npz is not in {SHARED}")
    with np.load(SHARED / "frey_faces.npz") as file:
        scipy.io.savemat(tmp_path / "frey_rawface.mat", {"ff": file["images"].reshape(1965, 560).T})
    [line] = re.findall(r"^python -c \"(.*frey_rawface.*)\"", (ROOT / "README.md").read_text(), re.M)
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    assert load("frey_faces", tmp_path).checksum == load("frey_faces", SHARED).checksum


# --- scripts/prepare_data.sh: its arguments (the rest needs the network)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a name and perhaps a folder"),
        (["a", "b", "c"], 2, "give a name and perhaps a folder"),
        (["../x"], 2, "is no TFDS name"),
        (["digits"], 2, "needs no preparing"),
        (["frey_faces"], 2, "copy frey_faces.npz"),
        (["faces", "PREPARED"], 0, "faces is prepared already: --dataset=faces --data_dir="),
        (["faces:1.9.0", "PREPARED"], 0, "faces:1.9.0 is prepared already"),
        (["old", "PREPARED"], 1, "was prepared in another format than array_record"),
    ],
)
def test_prepare_data_says_what_to_do(prepared, arguments, code, message):
    arguments = [str(prepared) if argument == "PREPARED" else argument for argument in arguments]
    done = subprocess.run(["bash", ROOT / "scripts" / "prepare_data.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("\n") == 1


def test_the_mean_image_is_of_the_training_images_and_has_logits():
    train = np.uint8([[[[0], [16]]], [[[0], [8]]]])
    data = datasets.Dataset("", train, train[:0], 1 + train, 17, "")
    assert datasets.mean_image(data) == pytest.approx((1e-3, 0.75))
