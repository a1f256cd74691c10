"""The section `command`: whole commands, as a user types them, and the time that they train or draw gradients."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import tables
from experiments.common.program_folder import programs_of

# The estimators of the sweep over estimators.
DISCRETE = ("disarm", "leave_one_out", "rebar", "relax", "reinmax", "st_gumbel_softmax")
# The gradients of each estimator that the laboratory draws.
DRAWS = 1000


class Command(NamedTuple):
    """A command to time.

    Attributes:
      name: The name in the table.
      module: The module that Python executes.
      flags: The flags without --workdir.
      reads_previous: Whether the command reads the workdir of the command before it, and writes another folder.
    """

    name: str
    module: str
    flags: tuple[str, ...]
    reads_previous: bool = False


def commands(numbers_of_runs: list[int]) -> list[Command]:
    """The commands that are timed: sweeps over seeds, a sweep over estimators, one long run, and the laboratory."""
    sweeps = [
        Command(
            f"{runs} run{'s' * (runs > 1)} of the digits, 20 epochs",
            "experiments.train",
            (f"--seed={','.join(map(str, range(runs)))}", "--epochs=20"),
        )
        for runs in numbers_of_runs
    ]
    return [
        *sweeps,
        Command(
            "six estimators of bits, three seeds, 60 epochs",
            "experiments.train",
            (
                "--posterior=bernoulli",
                f"--estimator={','.join(DISCRETE)}",
                "--num_samples=2",
                "--objective=elbo",
                "--seed=0,1,2",
                "--epochs=60",
            ),
        ),
        Command("one run of the digits, 200 epochs (the quickstart)", "experiments.train", ()),
        Command(
            "the laboratory on that run",
            "experiments.compare_estimators",
            ("--objective=elbo", f"--draws={DRAWS}"),
            reads_previous=True,
        ),
    ]


def measure(numbers_of_runs: list[int]) -> tuple[list[dict[str, Any]], str]:
    """Times each command twice: with an empty compile cache, and with the cache that the first time filled."""
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        previous = Path()
        for number, command in enumerate(commands(numbers_of_runs)):
            for cache in ("cold", "warm"):
                folder = Path(scratch) / f"{number}-{cache}"
                places = (f"--workdir={folder}",)
                if command.reads_previous:
                    places = (f"--workdir={previous}", f"--output={folder}")
                row = {"command": command.name, "cache": cache}
                row |= _execute(command, places, cache=Path(scratch) / f"cache-{number}")
                row["work_seconds"] = (gradient_seconds if command.reads_previous else training_seconds)(folder)
                row["ratio"] = row["seconds"] / row["work_seconds"]
                row |= _size(folder)
                measured.append(row)
                print(f"{command.name}, {cache} cache: {row['seconds']:.1f} s", flush=True)
            previous = folder
    return measured, _table(measured)


def _execute(command: Command, places: tuple[str, ...], cache: Path) -> dict[str, float]:
    """Executes a command; its wall-clock seconds, its CPU seconds and its largest memory.

    Raises:
      RuntimeError: If the command fails; the message is the end of its output.
    """
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    line = [sys.executable, "-m", command.module, *command.flags, *places]
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(line)} ended with {process.returncode}: {output.read()[-2000:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mebibytes": usage.ru_maxrss / 1024,
    }


def training_seconds(workdir: Path) -> float:
    """The seconds in which the programs of a workdir trained."""
    return sum(max(folder.seconds().values()) for folder in programs_of(workdir))


def gradient_seconds(output: Path) -> float:
    """The seconds that the laboratory's draws take, by the time of one gradient of each estimator."""
    return DRAWS * sum(row["seconds"] for row in tables.read_csv(output / "results.csv"))


def _size(folder: Path) -> dict[str, float]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"files": len(files), "megabytes": sum(path.stat().st_size for path in files) / 1e6}


def _table(measured: list[dict[str, Any]]) -> str:
    titles = ["command", "cache", "s", "of it training or gradients", "ratio", "CPU s", "files", "MB", "memory, MiB"]
    lines = [
        [
            row["command"],
            row["cache"],
            f"{row['seconds']:.1f}",
            f"{row['work_seconds']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_seconds']:.0f}",
            str(row["files"]),
            f"{row['megabytes']:.1f}",
            f"{row['peak_mebibytes']:.0f}",
        ]
        for row in measured
    ]
    return tables.to_markdown([titles, *lines])
