"""How much of the host's memory this process may use: the memory of the machine, or the limit of a job or container.

The limits come from Linux's control groups, which SLURM, Docker, Kubernetes and systemd make. SLURM does not always
make a control group, so the environment variable with the memory that SLURM granted is read as well.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def limit() -> float:
    """The bytes that this process may use in all."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(allowed for allowed, _ in _limits())])


def free() -> float:
    """The bytes that this process may still use; infinite if the system does not say."""
    return max(0, min([_available(), *(allowed - used for allowed, used in _limits())]))


def _available() -> float:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return math.inf


def _limits(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self")) -> Iterator[tuple[int, int]]:
    """Pairs (bytes allowed, bytes in use), one for each limit.

    Cached file pages that the system can drop do not count as in use.
    """
    granted = os.environ.get("SLURM_MEM_PER_NODE", "")
    if granted.isdecimal() and int(granted):  # 0 stands for all memory of the node
        resident = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        yield 2**20 * int(granted), resident * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (process / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            top = root
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = top / group.lstrip("/")
        for folder in [inner, *inner.parents]:  # in a container, the limit may be at the top
            if folder.is_relative_to(top) and (limit_and_use := _read_group(folder, *names)):
                yield limit_and_use


def _read_group(folder: Path, allowed: str, used: str, droppable: str) -> tuple[int, int] | None:
    """The bytes allowed and the bytes in use of a control group; None if the group has no limit.

    The arguments after `folder` are the names of the files with these numbers, and of the droppable bytes in
    memory.stat.
    """
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        number = lambda name: int((folder / name).read_text(encoding="utf-8"))
        return number(allowed), number(used) - int(stat.get(droppable, 0))
    except (OSError, ValueError):  # a file does not exist, or its text is max
        return None
