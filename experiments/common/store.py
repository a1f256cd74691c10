"""Results of long measurements on disk, so that the same command continues where it was interrupted.

A result is stored under a digest of everything that it depends on, so an outdated result is never found. A file holds
a checksum, followed by msgpack. It is written completely or not at all, and a damaged file counts as missing.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import serialization

from experiments.common import files
from experiments.common.provenance import code_digest, versions

CHECKSUM = 32  # bytes


class Store:
    """A folder of results.

    Attributes:
      folder: the folder; it is made when the first result is stored.
      earlier_seconds: seconds that it took to measure the results that were read from the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.earlier_seconds = 0.0

    def recall(self, digest: str | None, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result stored under `digest`; if there is none, `measure()`, which is then stored.

        A result is a dict of numbers, strings, arrays and dicts of these. Without a digest nothing is read or stored.
        """
        if digest is None:
            return jax.device_get(measure())
        path = self.folder / digest
        stored = _read(path)
        if stored is not None:
            self.earlier_seconds += stored["seconds"]
            return stored["result"]
        started = time.perf_counter()
        result = jax.device_get(measure())
        payload = serialization.msgpack_serialize({"result": result, "seconds": time.perf_counter() - started})
        self.folder.mkdir(exist_ok=True)
        files.write_bytes(path, hashlib.sha256(payload).digest() + payload)
        return result


def digest(**dependencies: Any) -> str:
    """Sixteen hexadecimal digits that change with the dependencies, and with the code, its libraries and the device.

    The dependencies are numbers, texts, lists and dicts of these: all settings that the result depends on.
    """
    text = json.dumps([dependencies, _surroundings()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _surroundings() -> dict[str, Any]:
    """The code, versions and device settings that every result depends on, besides its own settings."""
    return {
        "code": code_digest(),
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "random_bits": [jax.config.jax_default_prng_impl, jax.config.jax_threefry_partitionable],
        "float64": jax.config.jax_enable_x64,
    }


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[CHECKSUM:]).digest() != content[:CHECKSUM]:
        return None
    return serialization.msgpack_restore(content[CHECKSUM:])
