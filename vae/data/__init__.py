"""Image data sets as arrays.

    digits          scikit-learn's 8x8 digits; they need no file and no network
    frey_faces      the file frey_faces.npz in `data_dir`
    npz:PATH        your own arrays
    mnist, ...      any image set of TFDS that scripts/prepare_data.sh has prepared in `data_dir`

To add a data set, write a function `data_dir -> Splits` and give it a name: `vae.data.add("mine", mine)`. Further
arguments of the function, with defaults, are options of the set. You only need to read this file, `splits.py`, and the
example `digits.py`.

If a set cannot be loaded, the error is one sentence that says what to do. This package never waits for a network
and never unpickles a file.
"""

import math
import os

from vae.data import npz, tfds
from vae.data.binarization import BINARIZATIONS as BINARIZATIONS
from vae.data.binarization import binarize as binarize
from vae.data.binarization import fix_binarization as fix_binarization
from vae.data.binarization import mean_image as mean_image
from vae.data.binarization import pixels as pixels
from vae.data.dataset import Dataset as Dataset
from vae.data.dataset import make_dataset
from vae.data.digits import digits
from vae.data.frey_faces import frey_faces
from vae.data.splits import Splits as Splits
from vae.table import Table, Value

# Loaders. The first argument is `data_dir`, the folder that the user gave, or None; others are options of the set.
DATASETS = Table("data set", {"digits": lambda data_dir: digits(), "frey_faces": frey_faces}, leading=1)
add = DATASETS.add


def load(
    dataset: str,
    data_dir: str | os.PathLike | None = None,
    validation_size: int = 0,
    cache_dir: str | os.PathLike | None = None,
    max_bytes: float = math.inf,
    **options: Value,
) -> Dataset:
    """Loads the data set with this name; the top of this file lists the names.

    Args:
      dataset: key of `DATASETS`, `npz:PATH`, or a name of TFDS.
      data_dir: folder of the data set's files.
      validation_size: number of training images that become the validation split, chosen by a fixed shuffle; 0 keeps
        the set's own validation split, if it has one.
      cache_dir: folder of the decoded images of TFDS sets. None means the folder of the prepared files, or the
        user's cache folder where the prepared files are read-only.
      max_bytes: size of the largest training split of a TFDS set that is read into memory; a larger one stays on disk.
      **options: arguments of the loader, which only sets of `DATASETS` can have.

    A set without a test split gives a tenth of its training images to it, by the same shuffle.

    Raises:
      ValueError, OSError: one sentence that names the argument and what would work.
    """
    if dataset in DATASETS:
        splits = DATASETS.make(dataset, data_dir, **options)
    elif options:
        raise ValueError(f"dataset={dataset} has no options, got {', '.join(options)}")
    elif dataset.startswith("npz:"):
        splits = npz.load(dataset.removeprefix("npz:"))
    else:
        splits = tfds.load(dataset, data_dir, cache_dir, max_bytes, other_names=(*DATASETS, "npz:PATH"))
    name = ":".join([dataset, *(f"{option}={value}" for option, value in options.items())])
    return make_dataset(name, splits, validation_size)
