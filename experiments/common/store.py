"""What a long measurement has found so far, so that the same command goes on where it was cut off.

A value is kept under a digest of all that it depends on, so one that no longer holds is not found again. Files are
msgpack behind a checksum, written all or nothing; one that cannot be read counts as not there.
"""

import functools
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from experiments.common.provenance import code_digest, versions

CHECKSUM = 32  # bytes


class Store:
    """A folder of what was found.

    Attributes:
      earlier_seconds: that it took to find what was read here and not found anew.
    """

    def __init__(self, folder: Path):
        self.folder, self.earlier_seconds = folder, 0.0

    def recall(self, digest: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """`find()`, a dict of numbers, strings, arrays and such dicts: read where it was found before, else kept."""
        path = self.folder / digest
        if (known := _read(path)) is not None:
            self.earlier_seconds += known["seconds"]
            return known["found"]
        started = time.perf_counter()
        found = jax.device_get(find())
        payload = serialization.msgpack_serialize({"found": found, "seconds": time.perf_counter() - started})
        self.folder.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return found


def digest_of(function: Callable, *args, of: tuple = ()) -> str:
    """Sixteen hexadecimal digits that change with what `function(*args)` computes, with the arguments' values, with
    `of`, and with this code, its libraries and its device."""
    jaxpr, _ = jax.make_jaxpr(function, return_shape=True)(*args)
    # The values that the function holds are constants of the jaxpr, and functions in it are printed with addresses.
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr))
    digest = hashlib.sha256(f"{text}{of}{_surroundings()}".encode())
    for leaf in jax.tree.leaves((args, jaxpr.consts)):
        leaf = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def _surroundings() -> str:
    return f"{code_digest()} {versions()} {jax.devices()[0].device_kind} {os.environ.get('XLA_FLAGS', '')}"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[CHECKSUM:]).digest() != content[:CHECKSUM]:
        return None
    return serialization.msgpack_restore(content[CHECKSUM:])
