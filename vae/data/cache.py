"""A cache of decoded images: .npy files that end with the sha256 of their content, so that damage is noticed."""

import hashlib
import io
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vae.data.errors import reason

logger = logging.getLogger(__name__)


def cached(paths: list[Path], build: Callable[[], np.ndarray]) -> np.ndarray:
    """The array from the first of `paths` that exists and is undamaged.

    If there is none, the array is built, and is written to the first of `paths` that can be written.
    """
    for path in paths:
        try:
            return _read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("the cache %s cannot be used (%s); the images are decoded again", path, reason(error))
    array = build()
    for path in paths:
        try:
            _write(path, array)
            return array
        except OSError:
            continue
    logger.warning("the cache %s cannot be written; the next run decodes the images again", paths[-1])
    return array


def user_folder() -> Path:
    """The folder of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vae"


def _read(path: Path) -> np.ndarray:
    data = memoryview(path.read_bytes())
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError("it is damaged or cut short")
    return np.load(io.BytesIO(data[:-32]), allow_pickle=False)


def _write(path: Path, array: np.ndarray) -> None:
    """Writes the whole file or nothing, however many processes write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.stat().st_mode & 0o222:  # root could write there despite the permissions
        raise PermissionError(f"{path.parent} is read-only")
    data = io.BytesIO()
    np.save(data, array)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data.getbuffer())
            stream.write(hashlib.sha256(data.getbuffer()).digest())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
