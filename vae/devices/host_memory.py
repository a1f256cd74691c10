"""The host's memory as far as this process may use it: the machine's, or less where a job or a container has a limit.

What sets such a limit: Linux's control groups (of SLURM, Docker, Kubernetes, systemd) and, where SLURM keeps none, what
it says that it granted.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def limit() -> float:
    """Bytes that this process may take in all."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(most for most, _ in _limits())])


def free() -> float:
    """Bytes that it may still take; infinite where the system says nothing."""
    return max(0, min([_available(), *(most - used for most, used in _limits())]))


def _available() -> float:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return math.inf


def _limits(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self")) -> Iterator[tuple[int, int]]:
    """Of each limit its bytes, and those that are used up. Pages of files that can be dropped do not count."""
    granted = os.environ.get("SLURM_MEM_PER_NODE", "")
    if granted.isdecimal() and int(granted):  # 0 is all of the node
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        yield 2**20 * int(granted), resident * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = top / group.lstrip("/")
        for folder in [inner, *inner.parents]:  # a container may see its own group as the top
            if folder.is_relative_to(top) and (found := _of_group(folder, *names)):
                yield found


def _of_group(folder: Path, most: str, used: str, droppable: str) -> tuple[int, int] | None:
    """None where the group has no limit."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int((folder / most).read_text()), int((folder / used).read_text()) - int(stat.get(droppable, 0))
    except (OSError, ValueError):  # there is no such file, or it says max
        return None
