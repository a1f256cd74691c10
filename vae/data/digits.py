"""The digits of scikit-learn."""

import importlib.util
from pathlib import Path

import numpy as np

from vae.data.splits import Splits, shuffle_and_cut


def digits() -> Splits:
    """Optical recognition of handwritten digits (Alpaydin and Kaynak, 1998): [1797, 8, 8, 1], values 0 to 16.

    A pixel counts the black pixels of a 4x4 block. 1500 images are for training and 297 for testing.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise FileNotFoundError("dataset=digits comes with scikit-learn; install it: pip install scikit-learn")
    # The table is read without importing scikit-learn, which takes longer than everything else before training.
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    images = table[:, :-1].reshape(-1, 8, 8, 1)  # the last column is the class
    train, test = shuffle_and_cut(images, 1500)
    labels = dict(zip(("train", "test"), shuffle_and_cut(table[:, -1], 1500), strict=True))
    return Splits(train=train, test=test, levels=17, labels=labels)
