"""How much of the host's memory this process may use: the machine's memory, or the limit of a job or container.

Limits come from Linux's control groups, which SLURM, Docker, Kubernetes and systemd make, and from the memory that
SLURM says it granted, because SLURM does not always make a control group.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def limit() -> float:
    """Bytes that this process may use in all."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(most for most, _ in _limits())])


def free() -> float:
    """Bytes that this process may still use; infinite if the system does not tell."""
    return max(0, min([_available(), *(most - used for most, used in _limits())]))


def _available() -> float:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return math.inf


def _limits(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self")) -> Iterator[tuple[int, int]]:
    """(bytes allowed, bytes in use) of each limit. Cached file pages that can be dropped do not count as used."""
    granted = os.environ.get("SLURM_MEM_PER_NODE", "")
    if granted.isdecimal() and int(granted):  # 0 stands for all memory of the node
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        yield 2**20 * int(granted), resident * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (process / "cgroup").read_text().splitlines()
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
        for folder in [inner, *inner.parents]:  # a container may see its own group at the top
            if folder.is_relative_to(top) and (limit_and_use := _read_group(folder, *names)):
                yield limit_and_use


def _read_group(folder: Path, most: str, used: str, droppable: str) -> tuple[int, int] | None:
    """The limit of a control group and how much of it is in use; None if the group has no limit."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int((folder / most).read_text()), int((folder / used).read_text()) - int(stat.get(droppable, 0))
    except (OSError, ValueError):  # the file does not exist, or says max
        return None
