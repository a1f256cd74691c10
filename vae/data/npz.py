"""The user's own arrays, from an .npz file."""

import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vae.data.errors import reason
from vae.data.splits import SPLITS, Splits
from vae.devices import host_memory


def load(path: str) -> Splits:
    """The splits in the file: `train` and `test` (and perhaps `validation`), `x_train` and `x_test`, or `images` alone.

    [N, H, W, C] stays as it is, and [N, H, W] gets one channel. [N, D] becomes square images if D is a square number,
    so that flattened MNIST fits convolutional models as well; otherwise it becomes rows of pixels, [N, 1, D, 1].
    Integers that are not uint8 are counts.

    The labels of `train` are `train_labels`, those of `x_train` are `y_train`, and those of `images` are `labels`. They
    are read if every split has them, as integers [N] or [N, 1]. A warning says why labels are not read.
    """
    dataset = f"dataset=npz:{path}"
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{dataset}: there is no such file; give the path of an .npz file after npz:")
    names, arrays, labels = _read(dataset, file)
    images = {split: _images(f"{dataset}: {names[split]}", array) for split, array in arrays.items()}
    if len({array.dtype.kind for array in arrays.values()}) > 1:  # `images` holds uint8 for both bool and uint8
        differences = ", ".join(f"{names[split]} {each.dtype} {list(each.shape)}" for split, each in arrays.items())
        raise ValueError(f"{dataset}: the splits differ in dtype ({differences}); save them alike")
    return Splits(**images, labels=labels)


def members(file: np.lib.npyio.NpzFile, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Reads arrays from the file. `names` maps a key of the result to the array's name in the file.

    Raises:
      ValueError: if the arrays would not fit into memory, before any is read; or if a member is not an array.
    """
    infos = {member.filename.removesuffix(".npy"): member for member in file.zip.infolist()}
    unpacked = sum(infos[name].file_size for name in names.values())
    free = host_memory.free()
    if unpacked > free:
        raise ValueError(f"its arrays take {unpacked / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free")
    arrays = {key: file[name] for key, name in names.items()}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is not an .npy file
            raise ValueError(f"its {names[key]} is not an array")
    return arrays


def _read(dataset: str, path: Path) -> tuple[dict[str, str], dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """The names of the arrays in the file, by split, the arrays, unchanged, and the labels, if there are any."""
    try:
        with open(path, "rb") as stream, np.load(_archive(stream), allow_pickle=False) as file:
            present = file.files
            if "images" in present:
                names = {"train": "images"}
                images = members(file, names)
                return names, images, _labels(dataset, file, {"train": "labels"}, images)
            for prefix in ("", "x_"):
                names = {split: prefix + split for split in SPLITS if prefix + split in present}
                if {"train", "test"} <= set(names):
                    images = members(file, names)
                    labels = {split: f"y_{split}" if prefix else f"{split}_labels" for split in names}
                    return names, images, _labels(dataset, file, labels, images)
    except Exception as error:  # NumPy and zipfile document no list of what they raise on a damaged file
        raise ValueError(
            f"{dataset}: the file cannot be read as .npz ({reason(error)}); write it with "
            "np.savez(PATH, images=...) from an array of uint8, bool, float or counts"
        ) from error
    held = ", ".join(map(repr, present[:8])) or "nothing"  # a name in a damaged file may have any characters
    raise ValueError(
        f"{dataset}: the file holds {held}; it must hold train and test (and perhaps validation), or x_train and "
        "x_test, or images, as np.savez(PATH, images=X, labels=y) does; labels may be left out"
    )


def _labels(
    dataset: str, file: np.lib.npyio.NpzFile, names: dict[str, str], images: dict[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """The class of each image [N] of each split, from the arrays of these names; None if the file has none of them.

    If they are not the classes of the images, a warning says why, and there are no labels.
    """
    if not set(names.values()) & set(file.files):
        return None
    try:
        return {split: _classes(file, name, number=len(np.atleast_1d(images[split]))) for split, name in names.items()}
    except ValueError as error:
        warnings.warn(f"{dataset}: the labels are not read, because {error}", stacklevel=2)
        return None


def _classes(file: np.lib.npyio.NpzFile, name: str, number: int) -> np.ndarray:
    if name not in file.files:
        raise ValueError(f"{name} is missing")
    array = members(file, {name: name})[name]
    if array.dtype.kind not in "iu" or array.shape not in ((number,), (number, 1)):
        what = f"{name} is {array.dtype} of shape {list(array.shape)}, not an integer for each of {number} images"
        if array.shape == (number,):
            what += f"; save np.unique({name}, return_inverse=True)[1]"
        elif array.ndim == 2 and len(array) == number:
            what += f"; if its rows are one-hot, save {name}.argmax(1)"
        raise ValueError(what)
    return array.reshape(-1)


def _images(where: str, array: np.ndarray) -> np.ndarray:
    """The user's array as [N, H, W, C], uint8, float32 or, for counts, int32.

    Raises:
      ValueError: if it does not hold images.
    """
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise ValueError(
            f"{where} has shape {list(array.shape)}; it must be a non-empty [N, H, W, C], [N, H, W] or [N, D]"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{where} is {array.dtype}; it must be uint8 (0 to 255), bool, float (0 to 1), or int32 (counts)"
        )
    counts = array.dtype.kind in "iu" and array.dtype != np.uint8
    if counts and not 0 <= array.min() <= array.max() < 2**24:
        raise ValueError(f"{where} has counts from {array.min()} to {array.max()}; they must be 0 to {2**24 - 1}")
    if array.ndim == 2:
        side = round(array.shape[1] ** 0.5)
        array = array.reshape(len(array), *((side, side) if side**2 == array.shape[1] else (1, -1)))
    array = array if array.ndim == 4 else array[..., None]
    with np.errstate(over="ignore"):  # a pixel beyond the range of float32 becomes inf, which `make_dataset` refuses
        return np.ascontiguousarray(array, np.int32 if counts else np.float32 if array.dtype.kind == "f" else np.uint8)


def _archive(stream: BinaryIO) -> BinaryIO:
    """Returns the stream. For a file that is no archive, NumPy would raise an error that advises to unpickle it.

    Raises:
      zipfile.BadZipFile: if the file is no archive.
    """
    is_archive = zipfile.is_zipfile(stream)
    stream.seek(0)
    if not is_archive:
        is_array = stream.read(6) == b"\x93NUMPY"
        raise zipfile.BadZipFile("it is a single array, as of an .npy file" if is_array else "it is no archive")
    return stream
