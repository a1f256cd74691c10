"""Everything that a result depends on besides settings and data: versions, device, compiler flags and code."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

import vae
from experiments.common import cli, packages

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "absl-py")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers depend on, without those that are not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def code_digest() -> str:
    """Sixteen hexadecimal digits that change with the source of `experiments`, of `vae` and of imported packages."""
    sources = hashlib.sha256()
    for place in (Path(vae.__file__).parent, Path(__file__).parents[1], *_imported_sources().values()):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


def git_commit(source: Path) -> str:
    """The commit of the checkout around a package or module; empty outside a checkout.

    A + follows if the code differs from the commit: tracked files were changed, or `source` has other files of code.
    """
    # A git hook exports GIT_DIR, which would name another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    folder, files = (source, "*.py") if source.is_dir() else (source.parent, source.name)
    git = lambda *args: subprocess.run(
        ["git", *args], cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout.strip()
    try:
        differs = git("status", "--porcelain", "--untracked-files=no") or git("ls-files", "--others", "--", files)
        return git("rev-parse", "HEAD") + ("+" if differs else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def short(commit: str) -> str:
    """The first seven digits of a commit, with its +; "-" if there is none."""
    return commit[:7] + "+" * commit.endswith("+") or "-"


def describe_code() -> dict[str, Any]:
    """The commit of this project and of each package of --import (if any), the versions of packages, and the digest."""
    description: dict[str, Any] = {"git_commit": git_commit(Path(__file__).parents[1]), "versions": versions()}
    if sources := _imported_sources():
        description["imports"] = {name: git_commit(path) for name, path in sources.items()}
    return description | {"code": code_digest()}


def changed_code(recorded: dict[str, Any]) -> list[str]:
    """What has changed since `describe_code` gave `recorded`: "the project" or a package of --import, and packages with
    both versions."""
    changed = []
    if recorded.get("code", code_digest()) != code_digest():
        changed = [" or ".join(["the project", *recorded.get("imports", {})])]
    before = recorded.get("versions", {})
    now = versions().items()
    return changed + [
        f"{name} {before[name]} to {number}" for name, number in now if before.get(name, number) != number
    ]


def code_versions(recorded: dict[str, Any]) -> str:
    """The digests of the code that trained a program, in the order of use, from the content of its runs.json."""
    used = [str(one["code"])[:8] if "code" in one else "unknown" for one in (recorded, *recorded.get("continued", []))]
    return ", then ".join(dict.fromkeys(used))


def about_versions(versions: Iterable[str]) -> str:
    """The warning about runs that were trained by these `code_versions`; empty if one version trained all of them."""
    counts = Counter(versions)
    if len(counts) < 2 and not any(", then " in version for version in counts):
        return ""
    by = ", ".join(f"{number} by {version}" for version, number in counts.items())
    return (
        f"different versions of the code trained these runs ({by}; runs.json has the commits); train all of them in"
        " another --workdir to compare runs of one version"
    )


def describe_environment() -> dict[str, Any]:
    """The part of config.json about versions, device, compiler flags and code."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": f"{jax.default_backend()}, {platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **describe_code(),
    }


def describe_measurement(settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The content of config.json for a command whose measurements took `seconds`."""
    return {
        "command": cli.this_command(),
        "settings": settings | {"matmul_precision": jax.config.jax_default_matmul_precision or "default"},
        **describe_environment(),
        "seconds": round(seconds, 1),
    }


def _imported_sources() -> dict[str, Path]:
    """The folder or file of each package that --import names."""
    modules = {name: sys.modules[name] for name in packages.imported() if name in sys.modules}
    files = {name: Path(module.__file__) for name, module in modules.items() if hasattr(module, "__file__")}
    return {name: file.parent if file.name == "__init__.py" else file for name, file in files.items()}
