"""What a number depends on besides settings and data: versions, device, the compiler's flags, and the code."""

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


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def code_digest() -> str:
    """Sixteen hexadecimal digits that change with the source of `experiments`, of `vae` and of a paper's project."""
    sources = hashlib.sha256()
    folders = (Path(vae.__file__).parent, Path(__file__).parents[1], _project())
    for path in (path for folder in folders if folder for path in sorted(folder.rglob("*.py"))):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


def git_commit(folder: Path) -> str:
    """The commit of the checkout around `folder`, with a + if tracked files were changed; empty outside a checkout."""
    git = lambda *args: subprocess.run(
        ["git", *args], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe_code() -> dict[str, str]:
    """The commit of this project, the commit of the paper's project that started it (if one did), and the digest."""
    project = _project()
    commits = {"git_commit": git_commit(Path(__file__).parents[1])}
    if project:
        commits["project_commit"] = git_commit(project)
    return commits | {"code": code_digest()}


def describe_environment() -> dict[str, Any]:
    """What config.json says about versions, device, compiler flags and code."""
    return {
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": f"{jax.default_backend()}, {platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **describe_code(),
    }


def describe_measurement(settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The content of config.json for a command that measured for so many seconds."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "settings": settings | {"matmul_precision": jax.config.jax_default_matmul_precision or "default"},
        **describe_environment(),
        "seconds": round(seconds, 1),
    }


def _project() -> Path | None:
    """The package of a paper's own project, if one of its commands was started."""
    started = sys.modules["__main__"]
    package = started.__spec__.parent if started.__spec__ else ""
    ours = (vae.__name__, __name__.partition(".")[0])
    return Path(started.__file__).parent if package and package.partition(".")[0] not in ours else None
