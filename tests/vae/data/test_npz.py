"""Arrays of the user: they load as they are, or are refused in one sentence."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.helpers.data_sets import one_sentence, refusal, rows
from vae.data import load, pixels
from vae.devices import host_memory


def save(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_npz_keeps_uint8_images_and_their_splits(tmp_path):
    rng = np.random.default_rng(0)
    train, validation, test = (rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8) for n in (6, 3, 2))
    data = load(save(tmp_path, train=train, validation=validation, test=test))
    for got, expected in zip(data[1:4], (train, validation, test), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert data.levels == 256
    assert load(data.name, validation_size=3).checksum == data.checksum  # what the set has
    assert "validation_size=2 must be 0" in refusal(data.name, validation_size=2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5), (4, 5, 1)), ((4, 5, 3), (4, 5, 3)), ((784,), (28, 28, 1)), ((10,), (1, 10, 1)), ((1,), (1, 1, 1))],
)
def test_npz_layouts(tmp_path, shape, expected):
    train, test = np.random.default_rng(0).random((2, 3, *shape))
    data = load(save(tmp_path, x_train=train, x_test=test))
    np.testing.assert_array_equal(data.train, train.astype(np.float32).reshape(3, *expected))
    np.testing.assert_array_equal(data.test, test.astype(np.float32).reshape(3, *expected))
    assert (data.train.dtype, data.levels) == (np.float32, 0)


GOOD = np.zeros((4, 2, 2), np.uint8)
LABELS = np.array([3, 1, 4])


@pytest.mark.parametrize(
    ("names", "shape"),
    [(("x_train", "x_test", "y_train", "y_test"), (3, 1)), (("train", "test", "train_labels", "test_labels"), (3,))],
)
def test_npz_labels_are_read_with_their_splits(tmp_path, names, shape):
    arrays = [GOOD[:3], GOOD[:3], LABELS.reshape(shape), LABELS[::-1].reshape(shape)]
    data = load(save(tmp_path, **dict(zip(names, arrays, strict=True))))
    np.testing.assert_array_equal(data.labels["train"], LABELS)
    np.testing.assert_array_equal(data.labels["test"], LABELS[::-1])


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"y_train": LABELS}, "y_test is missing"),
        ({"y_test": LABELS}, "y_train is missing"),
        (
            {"y_train": LABELS, "y_test": np.array(["cat", "dog", "cat"])},
            r"y_test is <U3 of shape \[3\], not an .*; save np.unique\(y_test, return_inverse=True\)\[1\]$",
        ),
        ({"y_train": LABELS, "y_test": LABELS / 2}, r"y_test is float64 of shape \[3\], not an integer for each of 3"),
        (
            {"y_train": LABELS, "y_test": np.eye(3, dtype=int)},
            r"y_test is int64 of shape \[3, 3\], not an .*; if its rows are one-hot, save y_test.argmax\(1\)$",
        ),
        ({"y_train": LABELS, "y_test": LABELS[:2]}, r"y_test is int64 of shape \[2\], .* each of 3 images"),
        ({"y_train": LABELS, "y_test": np.array(3)}, r"y_test is int64 of shape \[\]"),
        ({"y_train": LABELS, "y_test": np.array([{}, {}, {}])}, "Object arrays cannot be loaded"),
    ],
)
def test_a_warning_says_why_npz_arrays_are_no_labels(tmp_path, labels, reason):
    with pytest.warns(UserWarning, match=f"the labels are not read, because {reason}"):
        assert load(save(tmp_path, x_train=GOOD[:3], x_test=GOOD[:3], **labels)).labels is None


def test_npz_with_images_alone_gives_a_tenth_to_the_test(tmp_path):
    images = np.arange(50 * 4, dtype=np.uint8).reshape(50, 2, 2)
    data = load(save(tmp_path, images=images, labels=np.arange(50)), validation_size=7)
    assert [len(split) for split in data[1:4]] == [38, 7, 5]
    np.testing.assert_array_equal(data.test[:, 0, 0, 0] // 4, data.labels["test"])
    assert rows(*data[1:4]) == rows(images)
    assert "has one image" in refusal(save(tmp_path, images=images[:1]))


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_npz_of_zeros_and_ones_has_two_levels(tmp_path, dtype):
    images = np.random.default_rng(0).integers(0, 2, (20, 3, 3)).astype(dtype)
    data = load(save(tmp_path, train=images, test=images))
    assert (data.levels, data.train.dtype) == (2, np.uint8)
    np.testing.assert_array_equal(pixels(data.train, 2)[..., 0], images)


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint16])
def test_integers_are_counts_that_stay_as_they_are(tmp_path, dtype):
    counts = np.random.default_rng(0).integers(0, 3000, (20, 3, 3)).astype(dtype)
    data = load(save(tmp_path, train=counts, test=counts[:2]))
    assert (data.levels, data.train.dtype, data.has_counts) == (0, np.int32, True)
    seen = pixels(data.train, data.levels)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[..., 0], counts)


BAD = {
    "nan": (dict(train=np.full((2, 2, 2), np.nan), test=np.zeros((2, 2, 2))), "8 NaN pixels in 2 of 2 images"),
    "nan in a table": (
        dict(images=np.where(np.arange(15).reshape(5, 3) == 7, np.nan, 0.5)),
        "has 1 NaN pixels in 1 of 5 images or rows, the first at index 2; floats must be 0 to 1, so drop these or fill",
    ),
    "signaling nan": (dict(images=np.full((2, 2), 0x7FA00000, np.uint32).view(np.float32)), "NaN pixels"),
    "above one": (
        dict(images=np.full((4, 2, 2), 1.5)),
        "from 1.5 to 1.5; floats must be 0 to 1: rescale each column of features, or all pixels alike, with (x - min)",
    ),
    "whole numbers": (
        dict(images=np.arange(16.0).reshape(4, 2, 2)),
        "has whole numbers from 0.0 to 15.0 as floats, which must be 0 to 1; save counts as an integer type such as",
    ),
    "below zero": (dict(images=np.full((4, 2, 2), -0.1)), "floats must be 0 to 1"),
    "infinite": (dict(images=np.full((4, 2, 2), np.inf)), "values from inf"),
    "negative": (dict(images=np.full((4, 2, 2), -1)), "counts from -1 to -1; they must be 0 to 16777215"),
    "beyond float32's integers": (dict(images=np.full((4, 2, 2), 2**24)), "counts from 16777216 to 16777216"),
    "grey levels and counts": (dict(train=GOOD, test=GOOD.astype(int)), "train uint8 [4, 2, 2], test int64 [4, 2, 2]"),
    "complex": (dict(images=np.zeros((4, 2, 2), complex)), "is complex128; it must be"),
    "text": (dict(images=np.full((4, 2), "a")), "must be uint8"),
    "one axis": (dict(images=np.zeros(4, np.uint8)), ": images has shape [4]"),
    "five axes": (dict(images=np.zeros((1, 1, 1, 1, 1), np.uint8)), "has shape [1, 1, 1, 1, 1]"),
    "empty": (dict(train=GOOD, test=GOOD[:0]), "test has shape [0, 2, 2]"),
    "two shapes": (dict(train=GOOD, test=GOOD[:, :1]), "differ in dtype or image shape"),
    "two dtypes": (dict(train=GOOD, test=GOOD.astype(float)), "train uint8 [4, 2, 2], test float64 [4, 2, 2]"),
    "bytes and bits": (dict(train=GOOD, test=GOOD.astype(bool)), "differ in dtype"),
    "channels first": (
        dict(images=np.zeros((9, 3, 16, 16), np.uint8)),
        "[3, 16, 16], whose channels seem to come first",
    ),
    "grey, channels first": (dict(images=np.zeros((9, 1, 9, 7), np.uint8)), "with images.transpose(0, 2, 3, 1)"),
    "beyond float32": (dict(train=np.full((4, 2, 2), 1e39), test=np.zeros((4, 2, 2))), "values from inf to inf"),
    "no test": (dict(train=GOOD), "the file holds 'train'; it must hold train and test"),
    "no known key": (dict(data=GOOD, target=GOOD), "the file holds 'data', 'target'"),
    "X and y": (
        dict(X=GOOD, y=LABELS),
        "or images, as np.savez(PATH, images=X, labels=y) does; labels may be left out",
    ),
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
    assert "cannot be read as .npz (it is no archive)" in refusal(f"npz:{path}")
    assert not (tmp_path / "exploded").exists()


def test_npz_files_that_are_missing_or_damaged_are_refused(tmp_path):
    assert "there is no such file" in refusal(f"npz:{tmp_path / 'none.npz'}")
    assert "there is no such file" in refusal(f"npz:{tmp_path}")
    assert "there is no such file" in refusal("npz:")
    path = Path(save(tmp_path, train=GOOD, test=GOOD).removeprefix("npz:"))
    path.write_bytes(path.read_bytes()[:-30])
    assert "cannot be read as .npz" in refusal(f"npz:{path}")
    np.save(tmp_path / "single.npy", GOOD)
    assert "cannot be read as .npz (it is a single array, as of an" in refusal(f"npz:{tmp_path / 'single.npy'}")


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
        assert data.has_counts or x.max() <= 1


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_load_or_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.npz"
    path.write_bytes(content)
    assert_loads_or_refuses(path)


@settings(max_examples=100, deadline=None)
@example(where=33683, value=10)  # an array's name begins with a new line
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


def test_arrays_that_together_take_more_than_the_free_memory_are_refused(tmp_path, monkeypatch):
    images = np.zeros((100, 10, 10, 1), np.uint8)
    np.savez_compressed(tmp_path / "mine.npz", train=images, test=images)
    monkeypatch.setattr(host_memory, "free", lambda: 15_000)
    with pytest.raises(ValueError, match="its arrays take 0.0 GB, and 0.0 GB of memory are free"):
        load(f"npz:{tmp_path}/mine.npz")
    monkeypatch.setattr(host_memory, "free", lambda: 30_000)
    assert load(f"npz:{tmp_path}/mine.npz").train.shape == (100, 10, 10, 1)
