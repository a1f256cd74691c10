"""The Frey faces, from frey_faces.npz."""

import hashlib
import os
from pathlib import Path

import numpy as np

from vae.data import npz
from vae.data.errors import reason
from vae.data.splits import Splits, shuffle_and_cut

SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"  # of the images' bytes


def frey_faces(data_dir: str | os.PathLike | None) -> Splits:
    """Brendan Frey's face in 1965 frames of one film: [1965, 28, 20, 1], cut into 1565, 200 and 200 at random."""
    if not data_dir:
        raise ValueError("dataset=frey_faces needs data_dir=DIR, the folder that holds frey_faces.npz")
    path = Path(data_dir).expanduser() / "frey_faces.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset=frey_faces: there is no frey_faces.npz in data_dir={data_dir}; give the folder that holds it"
        )
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            images = npz.members(file, {"images": "images"})["images"].reshape(-1, 28, 20, 1)
    except Exception as error:  # NumPy and zipfile document no list of what they raise on a damaged file
        raise ValueError(
            f"dataset=frey_faces: {path} cannot be read ({reason(error)}); make it again as vae/data/README.md says"
        ) from error
    if images.dtype != np.uint8 or hashlib.sha256(np.ascontiguousarray(images)).hexdigest() != SHA256:
        raise ValueError(
            f"dataset=frey_faces: {path} holds other images (their sha256 is not {SHA256[:12]}...); "
            f"make it as vae/data/README.md says, or load it as your own arrays with dataset=npz:{path}"
        )
    train, validation, test = shuffle_and_cut(images, 1565, 200)
    return Splits(train=train, validation=validation, test=test)
