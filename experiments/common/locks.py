"""Locks of the operating system, which a dead process cannot hold."""

import contextlib
import errno
import fcntl
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# The errors of a file system that has no locks.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def claim(folder: Path) -> IO[str]:
    """Claims a program's folder for this process, until the returned file is closed or the process ends.

    Raises:
      ValueError: If another process has claimed the folder.
    """
    _allow_open_files(2**16)  # a sweep holds one lock for each program
    file = open(folder / ".lock", "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ValueError(f"--workdir={folder} is in use by {owner}; let it finish, or choose another folder") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        print(f"{folder} is on a file system without locks: start no second run in it", file=sys.stderr)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


@contextlib.contextmanager
def taking_turns(workdir: str | Path, at: str = "results") -> Iterator[None]:
    """A context that one process of a workdir enters at a time; the others wait. `at` is a word for the work inside."""
    with open(Path(workdir) / f".{at}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


def _allow_open_files(number: int) -> None:
    """Raises this process's limit of open files to `number`, or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems refuse a limit below their "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
