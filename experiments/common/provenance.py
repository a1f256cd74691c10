"""What numbers depend on besides settings and data: versions, device, the compiler's flags, and the code."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import vae

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "absl-py")


def measurement(settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What config.json says of a measurement."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "settings": settings | {"matmul_precision": jax.config.jax_default_matmul_precision or "default"},
        **of_now(),
        "seconds": round(seconds, 1),
    }


def of_now() -> dict[str, Any]:
    """As config.json has them."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": f"{jax.default_backend()}, {platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **of_code(),
    }


def of_code() -> dict[str, str]:
    """Its commit, that of a paper's project which started it, and a digest of both."""
    here, project = Path(__file__).parents[1], _project()
    theirs = {"project_commit": git_commit(project)} if project else {}
    return {"git_commit": git_commit(here), **theirs, "code": code()}


@functools.cache
def code() -> str:
    """Sixteen hexadecimal digits that change with the source of this package, of vae and of a paper's project."""
    sources = hashlib.sha256()
    folders = (Path(vae.__file__).parent, Path(__file__).parents[1], _project())
    for path in (path for folder in folders if folder for path in sorted(folder.rglob("*.py"))):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


def _project() -> Path | None:
    """The package of a paper's own project, if one of its commands was started."""
    started = sys.modules["__main__"]
    package = started.__spec__.parent if started.__spec__ else ""
    ours = (vae.__name__, __name__.partition(".")[0])
    return Path(started.__file__).parent if package and package.partition(".")[0] not in ours else None


def git_commit(folder: Path) -> str:
    """The commit of the code there, with a + if the working tree differs from it; empty outside a checkout."""
    git = lambda *args: subprocess.run(
        ["git", *args], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
