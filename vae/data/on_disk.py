"""Images of a TFDS set that stay on disk, because they are too large for the memory, and are decoded when read."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae.data.errors import prepare_command, reason

DECODE_CHUNK = 1000  # number of images that one call decodes


class OnDisk:
    """The images of one split, or a selection of them: uint8 [N, H, W, C].

    Args:
      dataset: name of the set, for error messages.
      folder: folder of the prepared files.
      split: name of the split.
      indices: positions of the images in the split; None for all.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: str, folder: Path, split: str, indices: np.ndarray | None = None):
        self.dataset = dataset
        self.folder = folder
        self.split = split
        with _one_sentence(dataset, folder, split):
            self._source, shape = _open(folder, split)
        if shape is None:
            raise ValueError(
                f"dataset={dataset} has no uint8 images of one fixed shape under the key image; choose another set, or "
                "save its images as arrays and load them with dataset=npz:PATH"
            )
        self._indices = np.arange(len(self._source)) if indices is None else indices
        self.shape = (len(self._indices), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size of the decoded images in bytes."""
        return math.prod(self.shape)

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        with _one_sentence(self.dataset, self.folder, self.split):
            records = self._source.__getitems__(self._indices[indices].tolist())
            images = np.zeros((len(records), *self.shape[1:]), np.uint8)
            for image, record in zip(images, records, strict=True):
                image[:] = record["image"]
            return images

    def subset(self, indices: np.ndarray) -> "OnDisk":
        """The images at `indices`, without reading them."""
        return OnDisk(self.dataset, self.folder, self.split, self._indices[indices])

    def decoded(self) -> np.ndarray:
        """All images, in memory."""
        images = np.zeros(self.shape, np.uint8)
        title = f"decoding {self.dataset} {self.split}"
        with tqdm(total=len(self), desc=title, unit=" images", disable=None) as progress:
            for start in range(0, len(self), DECODE_CHUNK):
                chunk = self[start : start + DECODE_CHUNK]
                images[start : start + len(chunk)] = chunk
                progress.update(len(chunk))
        return images


def has_labels(folder: Path) -> bool:
    """Whether every image of a prepared set has a class: the feature `label` is TFDS's ClassLabel."""
    try:
        features = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        return "classLabel" in features["featuresDict"]["features"]["label"]
    except (OSError, ValueError, KeyError, TypeError):  # then there are no labels; the images may lie in the cache
        return False


def read_labels(dataset: str, folder: Path, split: str) -> np.ndarray:
    """The class of each image of a split, int64 [N], without decoding the images."""
    import tensorflow_datasets as tfds

    with _one_sentence(dataset, folder, split):
        source, _ = _open(folder, split, decoders={"image": tfds.decode.SkipDecoding()})
        labels = np.zeros(len(source), np.int64)
        for start in range(0, len(labels), DECODE_CHUNK):
            chunk = list(range(len(labels)))[start : start + DECODE_CHUNK]
            labels[chunk] = [record["label"] for record in source.__getitems__(chunk)]
        return labels


@contextmanager
def _one_sentence(dataset: str, folder: Path, split: str) -> Iterator[None]:
    """Turns any exception that a damaged file causes into an OSError without errno.

    TFDS, array_record and Pillow do not document which exceptions they raise. Errors of the system, such as a lost
    mount or too little memory, pass through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        raise OSError(
            f"dataset={dataset}: the {split} images in {folder} cannot be read ({reason(error)}); repair the files, or "
            f"prepare the set in another folder by {prepare_command(dataset)} and give data_dir=DIR"
        ) from error


def _open(folder: Path, split: str, decoders: dict | None = None):
    """TFDS's data source of one split, and the shape of its images; None where they have no fixed shape."""
    import tensorflow_datasets as tfds

    _check_features(json.loads((folder / "features.json").read_text(encoding="utf-8")))
    builder = tfds.builder_from_directory(folder, file_format="array_record")
    return builder.as_data_source(split=split, decoders=decoders), _image_shape(builder.info.features)


def _check_features(described: object) -> None:
    """Refuses classes that are not TFDS's own: TFDS imports the module of whatever class features.json names."""
    if isinstance(described, str) and described.lstrip().startswith(("{", "[")):  # TFDS nests JSON in strings
        described = json.loads(described)
    members = described if isinstance(described, dict) else {}
    for key in ("pythonClassName", "python_class_name", "type"):
        name = members.get(key, "")
        if isinstance(name, str) and "." in name and not name.startswith("tensorflow_datasets."):
            raise ValueError(f"features.json names a class that does not belong to TFDS, {name!r}")
    for piece in members.values() if members else described if isinstance(described, list) else ():
        _check_features(piece)


def _image_shape(features: object) -> tuple[int, int, int] | None:
    """[H, W, C] of TFDS's feature `image`; None if there is none, if its shape varies, or if it is not uint8."""
    import tensorflow_datasets as tfds

    image = features["image"] if isinstance(features, tfds.features.FeaturesDict) and "image" in features else None
    fixed = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8 and None not in image.shape
    return image.shape if fixed else None
