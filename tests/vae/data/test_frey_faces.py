"""The Frey faces, where their file is."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from tests.helpers.data_sets import refusal, rows
from vae.data import load

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"


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
    assert "needs data_dir=DIR" in refusal("frey_faces")
    assert f"there is no frey_faces.npz in data_dir={tmp_path}" in refusal("frey_faces", tmp_path)
    path = tmp_path / "frey_faces.npz"
    np.savez(path, images=np.zeros((1965, 28, 20, 1), np.uint8))
    assert "their sha256 is not 2438ba4f0d2a" in refusal("frey_faces", tmp_path)
    for damaged in (path.read_bytes()[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        assert f"{path} cannot be read" in refusal("frey_faces", tmp_path)


def test_frey_faces_may_be_converted_from_the_matrix_that_was_published(tmp_path):
    """By the command in vae/data/README.md: `ff` has a column an image, its rows one after the other."""
    if not (SHARED / "frey_faces.npz").is_file():
        pytest.skip(f"frey_faces.npz is not in {SHARED}")
    with np.load(SHARED / "frey_faces.npz") as file:
        scipy.io.savemat(tmp_path / "frey_rawface.mat", {"ff": file["images"].reshape(1965, 560).T})
    page = (ROOT / "vae/data/README.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^python -c \"([^\"]*frey_rawface[^\"]*)\"", page, re.M)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert load("frey_faces", tmp_path).checksum == load("frey_faces", SHARED).checksum
