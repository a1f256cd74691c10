"""A data set in three splits: making the splits that a set lacks, and checksums."""

import hashlib
from typing import NamedTuple

import numpy as np

from vae.data.on_disk import OnDisk
from vae.data.splits import SPLITS, Splits, shuffle_and_cut


class Dataset(NamedTuple):
    """Images [N, H, W, C] in three splits: uint8 from 0 to levels - 1; if levels is 0, float32 in [0, 1], or counts.

    Counts are int32. They are no grey levels, because they have no white.

    Attributes:
      name: the name that `vae.data.load` takes.
      train: training images, in memory or, if they are too large for it, on disk.
      validation: validation images; [0, H, W, C] where there are none.
      test: test images.
      levels: number of grey levels: 2 for binary images, 17 for the digits, 256 for others, 0 for continuous pixels
        and for counts.
      checksum: sha256 of the three splits' dtypes, shapes and bytes. If the training images are on disk, `files` is
        used in place of their bytes.
      files: for a TFDS set, an identifier of the prepared files and of the images in them that are for training.
      files_checksum: for a TFDS set, the `checksum` that the set has if its training images stay on disk.
      labels: for each split the class of each image, integers [N]; None where the set has no classes. No checksum
        covers them.
    """

    name: str
    train: np.ndarray | OnDisk
    validation: np.ndarray
    test: np.ndarray
    levels: int
    checksum: str
    files: bytes = b""
    files_checksum: str = ""
    labels: dict[str, np.ndarray] | None = None

    @property
    def has_counts(self) -> bool:
        return self.train.dtype == np.int32


def make_dataset(name: str, splits: Splits, validation_size: int) -> Dataset:
    """The data set, with a test split made if the set has none, and `validation_size` training images held out.

    Raises:
      ValueError: if an array does not hold images as `Splits` describes them, if there are too few training images, or
        if the set has another validation split of its own.
    """
    given = {split: images for split in SPLITS if (images := getattr(splits, split)) is not None}
    for split, images in given.items():
        _check_images(f"dataset={name}: {split}", images, splits.levels)
    if splits.labels is not None:
        _check_labels(f"dataset={name}", splits.labels, given)
    if len({(images.dtype, images.shape[1:]) for images in given.values()}) > 1:
        differences = ", ".join(f"{split} {images.dtype} {list(images.shape)}" for split, images in given.items())
        raise ValueError(f"dataset={name}: the splits differ in dtype or image shape ({differences}); make them alike")
    train, test = splits.train, splits.test
    # Cut like `train` below, so that they list the images of each split that is made of training images.
    indices = {"train": np.arange(len(train))}
    if test is None:
        if len(train) < 2:
            raise ValueError(f"dataset={name} has one image; training and testing need at least one each")
        size = len(train) - max(1, len(train) // 10)
        train, test = shuffle_and_cut(train, size)
        indices["train"], indices["test"] = shuffle_and_cut(indices["train"], size)
    validation = train[:0] if splits.validation is None else splits.validation
    held_out = _size_to_hold_out(name, len(train), len(validation), validation_size)
    if held_out:
        indices["train"], indices["validation"] = shuffle_and_cut(indices["train"], len(train) - held_out)
        train, validation = shuffle_and_cut(train, len(train) - held_out)
    levels = _levels(train, validation, test) if splits.levels is None else splits.levels
    cut = hashlib.sha256(indices["train"].tobytes()).hexdigest()
    files = f"{splits.files} train {cut}".encode() if splits.files else b""
    labels = None
    if splits.labels is not None:
        own = {"validation": splits.labels["train"][:0]} | splits.labels
        labels = own | {split: own["train"][index] for split, index in indices.items()}
    return checksummed(name, [train, validation, test], levels, files)._replace(labels=labels)


def checksummed(name: str, splits: list[np.ndarray | OnDisk], levels: int, files: bytes) -> Dataset:
    """The data set of the splits train, validation and test, with its checksums."""
    train, *others = splits
    files_checksum = _sha256(train, *others, files=files) if files else ""
    checksum = files_checksum if isinstance(train, OnDisk) else _sha256(train, *others)
    return Dataset(name, *splits, levels, checksum, files, files_checksum)


def _check_images(where: str, images: np.ndarray | OnDisk, levels: int | None) -> None:
    """Refuses an array that would train without an error but give wrong numbers. `where` begins the message."""
    if len(images.shape) != 4 or images.dtype not in (np.uint8, np.float32, np.int32):
        raise ValueError(
            f"{where} is {images.dtype} of shape {list(images.shape)}; it must be [N, H, W, C], uint8, float32 or"
            " int32 (counts)"
        )
    height, width, channels = images.shape[1:]
    if height <= 4 < min(width, channels):
        raise ValueError(
            f"{where} has images of shape {[height, width, channels]}, whose channels seem to come first; save them as"
            " [H, W, C], with images.transpose(0, 2, 3, 1)"
        )
    if isinstance(images, OnDisk) or not images.size:
        return
    if images.dtype == np.float32:
        low, high = images.min(), images.max()
        if np.isnan(low):
            missing = np.isnan(images).sum(axis=(1, 2, 3))
            raise ValueError(
                f"{where} has {missing.sum()} NaN pixels in {np.sum(missing > 0)} of {len(images)} images or rows, the"
                f" first at index {np.argmax(missing > 0)}; floats must be 0 to 1, so drop these or fill the pixels"
            )
        if 0 <= low and 1 < high < 2**24 and np.array_equal(images, np.round(images)):
            raise ValueError(
                f"{where} has whole numbers from {low} to {high} as floats, which must be 0 to 1; save counts as an"
                " integer type such as int32, or grey levels as uint8"
            )
        if low < 0 or high > 1:
            raise ValueError(
                f"{where} has values from {low} to {high}; floats must be 0 to 1: rescale each column of features, or"
                " all pixels alike, with (x - min) / (max - min)"
            )
    elif images.dtype == np.int32:
        if images.min() < 0:
            raise ValueError(f"{where} has the count {images.min()}, which is below 0")
    elif levels is not None and images.max() >= max(levels, 1):
        raise ValueError(f"{where} has the grey level {images.max()}, which must be below levels={levels}")


def _check_labels(where: str, labels: dict[str, np.ndarray], images: dict[str, np.ndarray | OnDisk]) -> None:
    """Refuses labels that are not one integer for each image of each split."""
    for split in {**images, **labels}:
        array, number = np.asarray(labels.get(split, ())), len(images.get(split, ()))
        if array.dtype.kind not in "iu" or array.shape != (number,):
            raise ValueError(
                f"{where}: the labels of {split} are {array.dtype} of shape {list(array.shape)}; they must be integers,"
                f" one for each of its {number} images"
            )


def _size_to_hold_out(name: str, train: int, validation: int, size: int) -> int:
    """The number of training images that become the validation split, if the caller asked for `size`."""
    if not 0 <= size < train:
        raise ValueError(f"validation_size={size} must be 0 to {train - 1} for dataset={name}")
    if size in (0, validation):
        return 0
    if validation:
        raise ValueError(
            f"validation_size={size} must be 0 for dataset={name}, which has {validation} validation images"
        )
    return size


def _levels(*splits: np.ndarray | OnDisk) -> int:
    """2 for images of zeros and ones, 256 for other uint8 images, 0 for continuous images and for counts.

    Images on disk are not read: the other splits decide.
    """
    if splits[0].dtype != np.uint8:
        return 0
    in_memory = [images for images in splits if not isinstance(images, OnDisk)]
    return 2 if max(images.max(initial=0) for images in in_memory) <= 1 else 256


def _sha256(*arrays: np.ndarray | OnDisk, files: bytes = b"") -> str:
    """sha256 of the arrays' dtypes, shapes and bytes. If `files` is given, it replaces the first array's bytes."""
    digest = hashlib.sha256()
    for i, array in enumerate(arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(files if files and i == 0 else np.ascontiguousarray(array).data)
    return digest.hexdigest()
