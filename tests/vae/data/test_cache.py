"""The cache of decoded images."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.data_sets import some_images, write_tfds
from vae.data import cache, load
from vae.data.on_disk import OnDisk


def test_decoded_images_are_cached_and_the_cache_is_an_ordinary_npy(prepared, tmp_path, monkeypatch):
    first = load("faces", prepared, cache_dir=tmp_path)
    (file,) = tmp_path.glob("faces-*-train.npy")
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), first.train)
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr(OnDisk, "decoded", lambda self: pytest.fail("decoded twice"))
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
    assert "cannot be written; the next run decodes the images again" in caplog.text


def test_a_set_prepared_anew_is_decoded_anew(tmp_path):
    for seed, root in enumerate((tmp_path / "a", tmp_path / "b")):
        write_tfds(root / "tiny" / "1.0.0", {"train": some_images(4 + seed, seed), "test": some_images(2)})
        data = load("tiny", root, cache_dir=tmp_path / "cache")
        np.testing.assert_array_equal(data.train, some_images(4 + seed, seed))


def test_the_second_folder_is_read_where_the_first_has_no_cache(tmp_path):
    images, path = np.arange(6, dtype=np.uint8), tmp_path / "second" / "images.npy"
    cache.cached([path], lambda: images)
    found = cache.cached([tmp_path / "first" / "images.npy", path], lambda: pytest.fail("built again"))
    np.testing.assert_array_equal(found, images)
