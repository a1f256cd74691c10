"""Measures sections, each in a process of its own with a time limit. Whatever happens in one section or in one of its
cases is a line of the table, and the others go on.

    rows = measure(make_cases, context, log)

A section is a function `make_cases(context)`, which returns its cases by name. A case is a function without arguments
that returns the values of its line, or raises an exception. The function must be importable, because its name is sent
to the process.
"""

import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import files, jax_settings

Row = dict[str, Any]
Cases = dict[str, Callable[[], Row]]

# A case that is running when the time of its section is over may take so many seconds more.
GRACE = 5
TIME_IS_OVER = "the time of its section was over"


class Wrong(Exception):
    """A check found that something is not as it should be. The message is a sentence."""


class Context(NamedTuple):
    """What a section needs to know.

    Attributes:
      small: Whether to take sizes for a CPU.
      deadline: The end of the section's time, by `time.monotonic()`.
      folder: A folder for temporary files.
    """

    small: bool
    deadline: float
    folder: Path


def measure(make_cases: Callable[[Context], Cases], context: Context, log: Path) -> list[Row]:
    """A row for each case: its name as `case`, and its values, or a sentence as `failed` or `skipped`.

    Args:
      log: The file that gets everything that the section prints.
    """
    path = context.folder / f"{make_cases.__name__}.jsonl"
    process = multiprocessing.get_context("spawn").Process(
        target=_measure_here, args=(make_cases, context, path, log), daemon=True
    )
    process.start()
    process.join(context.deadline + GRACE - time.monotonic())
    late = process.is_alive()
    process.kill()
    process.join()
    lines = [json.loads(line) for line in files.read_lines(path)]
    names, rows = (lines[0]["cases"], lines[1:]) if lines else (["start"], [])
    rest = names[len(rows) :]
    if late:
        return rows + [{"case": name, "skipped": TIME_IS_OVER} for name in rest]
    rows += [{"case": name, "failed": f"its process ended with status {process.exitcode}"} for name in rest[:1]]
    return rows + [{"case": name, "skipped": "the case before it ended the process"} for name in rest[1:]]


def _measure_here(make_cases: Callable[[Context], Cases], context: Context, path: Path, log: Path) -> None:
    """Writes the names of the cases and the row of each case into a file, line by line."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax_settings.fix()
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        for row in measure_cases(lambda: make_cases(context), context.deadline):
            file.write(json.dumps(row) + "\n")


def _end_with_parent() -> None:
    """Frees the device when the command is stopped or killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def measure_cases(make_cases: Callable[[], Cases], deadline: float) -> Iterator[Row]:
    """Yields `{"cases": names}` and then a row for each case.

    Args:
      deadline: The time on the monotonic clock after which no case starts.
    """
    try:
        cases = make_cases()
    except Exception as error:
        yield {"cases": ["start"]}
        yield {"case": "start", "failed": _sentence(error)}
        return
    yield {"cases": list(cases)}
    for name, case in cases.items():
        started = time.monotonic()
        if started > deadline:
            yield {"case": name, "skipped": TIME_IS_OVER}
            continue
        try:
            values = case()
        except subprocess.TimeoutExpired:
            values = {"skipped": TIME_IS_OVER}
        except Exception as error:
            values = {"failed": _sentence(error)}
        yield {"case": name, **values, "seconds": round(time.monotonic() - started, 1)}


def _sentence(error: Exception) -> str:
    """The first line of an error's message; if the error is not the result of a check, with the error's type."""
    line = (str(error).strip().splitlines() or ["no message"])[0][:300]
    return line if isinstance(error, Wrong) else f"{type(error).__name__}: {line}"
