"""Images as arrays: `load` finds them, `pixels` scales them, `fix_binarization` and `binarize` make them 0 and 1.

    digits          scikit-learn's 8x8 digits: needs no file and no network
    mnist, ...      any TFDS image set that scripts/prepare_data.sh has prepared in --data_dir (tfds_images.py)
    frey_faces      frey_faces.npz in --data_dir
    npz:PATH        arrays of your own

What cannot be loaded is refused at once, in one sentence that says what to do: nothing here waits for a network, and
nothing here unpickles. Every split that is drawn here comes from one fixed seed; `Dataset.checksum` tells sets apart.
"""

import hashlib
import importlib.util
import math
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae.data.tfds import SPLITS, OnDisk, fingerprint, load_prepared, reason
from vae.devices import host_memory

BINARIZATIONS = ("none", "dynamic", "static", "threshold")
DIGITS_LEVELS = 17  # scikit-learn's digits count the black pixels of 4x4 blocks: 0..16
FREY_FACES_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"  # of the images
SPLIT_SEED = 0  # of every shuffle that cuts a set in two: part of what the set is, never a flag


class Dataset(NamedTuple):
    """Images [N, H, W, C] in three splits: uint8 in 0..levels-1, or (levels == 0) float32 in [0, 1]."""

    name: str
    train: np.ndarray | OnDisk  # the latter where it is too large to be in memory
    validation: np.ndarray  # [0, H, W, C] where there is none
    test: np.ndarray
    levels: int  # number of grey levels: 17 for digits, 2 for binary images, 256 for others, 0 for continuous ones
    checksum: str  # sha256 of all three splits: their dtypes, shapes and bytes; for a train split on disk, of its files
    files: bytes = b""  # of a TFDS set: tells which images of which prepared files the train split has
    files_checksum: str = ""  # of a TFDS set: what `checksum` is with training images on disk, wherever they are


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    validation_size: int = 0,
    cache_dir: str | os.PathLike | None = None,
    max_bytes: float = math.inf,
) -> Dataset:
    """The data set called `name` (see the top of this file).

    `data_dir` holds the prepared files; a TFDS set's decoded images are kept beside them, or in `cache_dir`, or, where
    the files are read-only, in the user's cache folder. `validation_size` training images become the validation split,
    chosen by a fixed shuffle; 0 keeps what the set has. A set without a test split gives a tenth of its training images
    to it, by the same shuffle. Training images of a TFDS set that take more than `max_bytes` stay on disk.

    Raises ValueError or OSError: one sentence that names the flag and what would work.
    """
    prepared = False
    if name == "digits":
        splits = _digits()
    elif name == "frey_faces":
        splits = _frey_faces(data_dir)
    elif name.startswith("npz:"):
        splits = _npz(name)
    else:
        splits, prepared = load_prepared(name, data_dir, cache_dir, max_bytes), True
    train, test = splits["train"], splits.get("test")
    indices = np.arange(len(train))  # goes through all that train goes through
    if test is None:
        if len(train) < 2:
            raise ValueError(f"--dataset={name} has one image, and training and testing need at least one each")
        size = len(train) - max(1, len(train) // 10)
        train, test = _shuffle_and_cut(train, size)
        indices, _ = _shuffle_and_cut(indices, size)
    validation = splits.get("validation", train[:0])
    indices, _ = _hold_out(name, indices, validation, validation_size)
    train, validation = _hold_out(name, train, validation, validation_size)
    files = fingerprint(name, data_dir, "train", indices) if prepared else b""
    levels = DIGITS_LEVELS if name == "digits" else _levels(train, validation, test)
    return _dataset(name, [train, validation, test], levels, files)


def pixels(images: jax.Array | np.ndarray, levels: int) -> jax.Array | np.ndarray:
    """Images as float32 in [0, 1]: grey level / (levels - 1); float images are that already. NumPy stays NumPy."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(np.float32) / np.float32(levels - 1)


def binarize(key: jax.Array, x: jax.Array | np.ndarray) -> jax.Array:
    """One draw of Bernoulli(x) for each pixel x in [0, 1], float32 0 or 1: dynamic binarization inside a step."""
    return jax.random.bernoulli(key, x).astype(jnp.float32)


def mean_image(dataset: Dataset, margin: float = 1e-3) -> tuple[float, ...]:
    """Each pixel's mean over the training images, flat, kept `margin` away from 0 and 1, where there is no logit."""
    white, pieces = max(dataset.levels - 1, 1), [dataset.train]
    if isinstance(dataset.train, OnDisk):
        pieces = (dataset.train[start : start + 1000] for start in range(0, len(dataset.train), 1000))
    mean = sum(piece.reshape(len(piece), -1).sum(axis=0, dtype=np.float64) for piece in pieces)
    mean = mean / len(dataset.train) / white
    return tuple(np.clip(mean, margin, 1 - margin).tolist())


def fix_binarization(dataset: Dataset, binarization: str, seed: int = 0) -> Dataset:
    """Binarizes, once and for all, what is not binarized anew in each step.

    none: nothing. static: every split is drawn once, as in Salakhutdinov and Murray (2008). dynamic: validation and
    test are drawn once, train stays grey for `binarize`. threshold: 1 where the pixel is at least 0.5.
    The draws depend on `seed` and on the split alone. White is `levels - 1`, so that `pixels` still gives 0 and 1.
    """
    if binarization not in BINARIZATIONS:
        raise ValueError(f"--binarization={binarization} is not one of {', '.join(BINARIZATIONS)}")
    if binarization == "none":
        return dataset
    white = max(dataset.levels - 1, 1)
    splits = [dataset.train, dataset.validation, dataset.test]
    if binarization != "dynamic" and isinstance(dataset.train, OnDisk):
        raise ValueError(
            f"--binarization={binarization} is of training images in memory, and those of --dataset={dataset.name} "
            "stay on the disk; take dynamic, or --streaming=off"
        )
    for i in (1, 2) if binarization == "dynamic" else (0, 1, 2):
        if binarization == "threshold":
            ink = splits[i] >= white / 2
        else:
            ink = _draw(np.random.default_rng((seed, i)), splits[i], dataset.levels)
        splits[i] = ink.astype(splits[i].dtype) * white
    return _dataset(dataset.name, splits, dataset.levels, dataset.files if binarization == "dynamic" else b"")


def _draw(rng: np.random.Generator, images: np.ndarray, levels: int) -> np.ndarray:
    """Bernoulli(pixel). With u uniform on 0..levels-2, P(u < k) is k / (levels - 1) exactly, at one byte a pixel."""
    if levels == 0:
        return rng.random(images.shape, dtype=np.float32) < images
    return rng.integers(0, levels - 1, images.shape, dtype=np.uint8) < images


def _levels(*splits: np.ndarray | OnDisk) -> int:
    """Images that hold nothing but 0 and 1 have 2 levels, other uint8 images 256, continuous ones 0. What is on disk is
    taken to be as the others are."""
    if splits[0].dtype != np.uint8:
        return 0
    here = [images for images in splits if not isinstance(images, OnDisk)]
    return 2 if max(images.max(initial=0) for images in here) <= 1 else 256


def _dataset(name: str, splits: list[np.ndarray | OnDisk], levels: int, files: bytes) -> Dataset:
    train, *others = splits
    files_checksum = _sha256(train, *others, files=files) if files else ""
    checksum = files_checksum if isinstance(train, OnDisk) else _sha256(train, *others)
    return Dataset(name, *splits, levels, checksum, files, files_checksum)


def _sha256(*arrays: np.ndarray | OnDisk, files: bytes = b"") -> str:
    """Of dtypes, shapes and bytes; of the first array, `files` instead of its bytes where they are given."""
    digest = hashlib.sha256()
    for i, array in enumerate(arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(files if files and i == 0 else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _shuffle_and_cut(images: np.ndarray | OnDisk, *sizes: int) -> list[np.ndarray | OnDisk]:
    """Pieces of the given sizes, and the rest, of the images in a fixed random order; on disk the first piece alone."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    if isinstance(images, OnDisk):
        first, *others = (images.subset(piece) for piece in np.split(order, np.cumsum(sizes)))
        return [first, *(other.decoded() for other in others)]
    return np.split(images[order], np.cumsum(sizes))


def _hold_out(name: str, train: np.ndarray, validation: np.ndarray, size: int) -> list[np.ndarray]:
    """Train and validation, where `size` training images are asked for as validation."""
    if not 0 <= size < len(train):
        raise ValueError(f"--validation_size={size} must be 0 to {len(train) - 1} for --dataset={name}")
    if size in (0, len(validation)):
        return [train, validation]
    if len(validation):
        raise ValueError(
            f"--validation_size={size} must be 0 for --dataset={name}, which has {len(validation)} validation images"
        )
    return _shuffle_and_cut(train, len(train) - size)


def _digits() -> dict[str, np.ndarray]:
    """Optical recognition of handwritten digits (Alpaydin and Kaynak, 1998): [1797, 8, 8, 1], values 0..16."""
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise FileNotFoundError("--dataset=digits is in scikit-learn, so install it: pip install scikit-learn")
    # its own table, without importing it, which takes longer than all else that comes before training
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    train, test = _shuffle_and_cut(table[:, :-1].reshape(-1, 8, 8, 1), 1500)  # its last column is the class
    return {"train": train, "test": test}


def _frey_faces(data_dir: str | os.PathLike | None) -> dict[str, np.ndarray]:
    """Brendan Frey's face in 1965 frames of one film: [1965, 28, 20, 1], cut into 1565, 200 and 200 at random."""
    if not data_dir:
        raise ValueError("--dataset=frey_faces needs --data_dir=DIR, the folder that holds frey_faces.npz")
    path = Path(data_dir).expanduser() / "frey_faces.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"--dataset=frey_faces: there is no frey_faces.npz in --data_dir={data_dir}, so give the folder that has it"
        )
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            images = _arrays(file, {"train": "images"})["train"].reshape(-1, 28, 20, 1)
    except Exception as error:  # nobody lists all that NumPy and zipfile raise on a damaged file
        raise ValueError(
            f"--dataset=frey_faces: {path} cannot be read ({reason(error)}), so make it again as README.md says"
        ) from error
    if images.dtype != np.uint8 or hashlib.sha256(np.ascontiguousarray(images)).hexdigest() != FREY_FACES_SHA256:
        raise ValueError(
            f"--dataset=frey_faces: {path} holds other images (their sha256 is not {FREY_FACES_SHA256[:12]}...), "
            f"so make it as README.md says, or load it as your own arrays by --dataset=npz:{path}"
        )
    return dict(zip(SPLITS, _shuffle_and_cut(images, 1565, 200), strict=True))


def _npz(name: str) -> dict[str, np.ndarray]:
    """The user's arrays: `train` and `test` (and `validation`), the same with `x_` before them, or `images` alone.

    [N, H, W, C] as it is; [N, H, W] gets one channel; [N, D] is read as a square image where D is a square number (so
    that flattened MNIST fits convolutional models as well) and otherwise as one row of pixels, [N, 1, D, 1].
    """
    path = Path(name.removeprefix("npz:")).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--dataset={name}: there is no such file, so give the path of an .npz file after npz:")
    arrays = _read_npz(name, path)
    splits = {split: _images(f"--dataset={name}: {split}", array) for split, array in arrays.items()}
    if len({(array.dtype.kind, splits[split].shape[1:]) for split, array in arrays.items()}) > 1:
        found = ", ".join(f"{split} {array.dtype} {list(array.shape)}" for split, array in arrays.items())
        raise ValueError(f"--dataset={name}: the splits differ in dtype or image shape ({found}), so save them alike")
    return splits


def _read_npz(name: str, path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file by split, as they are."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            keys = file.files
            if "images" in keys:
                return _arrays(file, {"train": "images"})
            for prefix in ("", "x_"):
                if {f"{prefix}train", f"{prefix}test"} <= set(keys):
                    return _arrays(file, {split: prefix + split for split in SPLITS if prefix + split in keys})
    except Exception as error:  # nobody lists all that NumPy and zipfile raise on a damaged file
        raise ValueError(
            f"--dataset={name}: the file cannot be read as .npz ({reason(error)}), so write it by "
            "np.savez(PATH, train=..., test=...) with arrays of uint8, bool or float"
        ) from error
    raise ValueError(
        f"--dataset={name}: the file holds {', '.join(keys[:8]) or 'nothing'}, and must hold train and test (and "
        "perhaps validation), or x_train and x_test, or images"
    )


def _arrays(file: np.lib.npyio.NpzFile, keys: dict[str, str]) -> dict[str, np.ndarray]:
    """The members that `keys` names; what would fill the memory is not unpacked."""
    members = {member.filename.removesuffix(".npy"): member for member in file.zip.infolist()}
    unpacked = sum(members[key].file_size for key in keys.values())
    if unpacked > (free := host_memory.free()):
        raise ValueError(f"its arrays are of {unpacked / 1e9:.1f} GB, and {free / 1e9:.1f} of memory are free")
    arrays = {split: file[key] for split, key in keys.items()}
    for split, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of a member that is no .npy
            raise ValueError(f"its {keys[split]} is no array")
    return arrays


def _images(where: str, array: np.ndarray) -> np.ndarray:
    """The user's array as [N, H, W, C], uint8 or float32, if it holds images."""
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise ValueError(
            f"{where} has shape {list(array.shape)}, and must be a non-empty [N, H, W, C], [N, H, W] or [N, D]"
        )
    if array.dtype != np.uint8 and array.dtype.kind not in "bf":
        raise ValueError(f"{where} is {array.dtype}, and must be uint8 (0 to 255), bool or float (0 to 1)")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise ValueError(f"{where} has {np.isnan(array).sum()} NaN pixels, and floats must be 0 to 1")
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{where} has values from {low} to {high}, and floats must be 0 to 1 (uint8 may be 0 to 255)"
            )
    if array.ndim == 2:
        side = round(array.shape[1] ** 0.5)
        array = array.reshape(len(array), *((side, side) if side**2 == array.shape[1] else (1, -1)))
    array = array if array.ndim == 4 else array[..., None]
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.uint8)
