"""The result of a loader: the splits that a data set has."""

from typing import NamedTuple

import numpy as np

from vae.data.on_disk import OnDisk

SPLITS = ("train", "validation", "test")
SEED = 0  # seed of every shuffle that cuts a split; it is not a setting, because the cut belongs to the data set


class Splits(NamedTuple):
    """The images [N, H, W, C] that a data set has: uint8, float32 in [0, 1], or int32 for counts.

    Attributes:
      train: training images.
      validation: validation images; None where the set has none.
      test: test images. If None, a tenth of the training images become the test split.
      levels: number of grey levels, 0 for continuous pixels and counts. If None, it is inferred from the pixels.
      files: fingerprint of the prepared files of a TFDS set; empty for other sets.
      labels: for each of these splits the class of each image, integers [N]; None where the images have no classes.
    """

    train: np.ndarray | OnDisk
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    levels: int | None = None
    files: str = ""
    labels: dict[str, np.ndarray] | None = None


def shuffle_and_cut(images: np.ndarray | OnDisk, *sizes: int) -> list[np.ndarray | OnDisk]:
    """The images in a fixed random order, cut into pieces of the given sizes and the rest.

    If the images are on disk, the first piece stays there and the others are decoded.
    """
    order = np.random.default_rng(SEED).permutation(len(images))
    if isinstance(images, OnDisk):
        first, *others = (images.subset(piece) for piece in np.split(order, np.cumsum(sizes)))
        return [first, *(other.decoded() for other in others)]
    return np.split(images[order], np.cumsum(sizes))
