"""The runs of one command, their programs, and the runs that are left to train.

run      the training of one model: one value for every setting, including the seed
program  a group of runs that share one compiled function; they differ only in numbers, and are trained together
sweep    all programs of one command
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.common import build, files, foreign_files, settings
from experiments.common.run_folder import RunFolder, run_folders
from experiments.common.settings import Settings
from experiments.train import multihost
from experiments.train.flags import Options
from experiments.train.profiling import Profile
from vae import checkpoint
from vae.data import Dataset


class Run(NamedTuple):
    """The settings of a run, and its folder."""

    settings: Settings
    folder: RunFolder


class Program(NamedTuple):
    """The runs of a program, and everything that they share.

    Attributes:
      name: The program's number and the settings that distinguish it; empty if the sweep has one program.
      runs: The runs. Their settings differ only in numbers that the compiled function takes as arguments.
      data: The data set of all runs.
      streamed: Whether the training images are read while the runs train. Otherwise they lie on the device.
      functions: The functions to compile.
      profile: The trace that --profile_steps asks for.
    """

    name: str
    runs: list[Run]
    data: Dataset
    streamed: bool
    functions: build.Functions
    profile: Profile

    @property
    def settings(self) -> Settings:
        """The settings of the first run, from which the others differ only in array-valued settings."""
        return self.runs[0].settings

    @property
    def folders(self) -> list[RunFolder]:
        return [run.folder for run in self.runs]

    def halves(self) -> tuple["Program", "Program"]:
        """Two programs with half of the runs each."""
        middle = len(self.runs) // 2
        return self._replace(runs=self.runs[:middle]), self._replace(runs=self.runs[middle:])

    def with_runs(self, which: np.ndarray) -> "Program":
        """The same program with only the selected runs; `which` holds indices, or a truth value for each run."""
        return self._replace(runs=[self.runs[i] for i in np.arange(len(self.runs))[which]])


class Sweep:
    """The programs of a sweep, or the only one that --program names.

    The constructor loads the data and traces every program, so bad input is refused before any work is done.

    Attributes:
      runs: All runs of the command, also those of programs that --program leaves out.

    Raises:
      ValueError, NotImplementedError: If settings or options do not go together.
      OSError: If a file cannot be read.
    """

    def __init__(self, all_settings: list[Settings], workdir: Path, options: Options):
        groups = list(settings.programs(all_settings))
        if options.program > len(groups):
            raise ValueError(f"--program={options.program} does not exist; the sweep has {len(groups)} programs")
        swept = [name for name in settings.FIELDS if len({getattr(run, name) for run in all_settings}) > 1]
        folders = run_folders(workdir, all_settings, swept)
        run_of = {run: Run(run, folder) for run, folder in zip(all_settings, folders, strict=True)}
        self.workdir = workdir
        self.options = options
        self.runs = list(run_of.values())
        self.programs = []
        for number, group in enumerate(groups, 1):
            if options.program in (0, number):
                name = f"program {number} of {len(groups)}, {_distinction(group[0], swept)}" if len(groups) > 1 else ""
                self.programs.append(_make_program(name, [run_of[run] for run in group], options))
        files.check_writable(workdir)
        foreign_files.refuse_links(workdir)

    def claim(self) -> list[Program]:
        """Makes the folders of all runs and keeps other processes from training them.

        Prints which runs were trained by another version of the code.

        Returns:
          Programs with the runs that have no result yet, to be trained one after the other.

        Raises:
          ValueError: If a folder belongs to another run or another process, or if the disk is too small.
        """
        for program in self.programs:
            for run in program.runs:
                run.folder.claim(run.settings, program.data, self.options.data_dir)
        unfinished = [program for program in map(_unfinished, self.programs) if program.runs]
        pending = {folder.path for program in unfinished for folder in program.folders}
        _report_other_code([folder for program in self.programs for folder in program.folders], pending)
        if multihost.is_first():
            needed = sum(_checkpoint_bytes(program, self.options.keep) for program in unfinished)
            files.check_space(self.workdir, needed)
        return [part for program in unfinished for part in _split_by_progress(program)]

    def close(self) -> None:
        """Lets other processes claim the folders."""
        for run in self.runs:
            run.folder.close()

    def diverged(self) -> list[str]:
        """A sentence for each run that diverged when an earlier command trained it."""
        folders = [folder for program in self.programs for folder in program.folders]
        results = [(folder.path, folder.result()) for folder in folders]
        return [
            f"{path}: the training was not finite at step {row['step']} in an earlier command; delete the folder to"
            " train this run again with other code"
            for path, row in results
            if row and row["status"] == "diverged"
        ]


def _make_program(name: str, runs: list[Run], options: Options) -> Program:
    first = runs[0]
    data = build.load_data(first.settings, options.data_dir, options.cache_dir, options.streaming)
    too_large = data.train.nbytes > build.resident_bytes(options.streaming)
    with jax.default_matmul_precision(first.settings.matmul_precision):
        functions = build.functions(first.settings, data)
    profile = Profile(
        options.profile_steps,
        folder=first.folder.path / "profile",
        steps_per_epoch=functions.steps_per_epoch,
        epochs=first.settings.epochs,
    )
    return Program(
        name=name,
        runs=runs,
        data=data,
        streamed=bool(multihost.from_first(np.array(too_large))),
        functions=functions,
        profile=profile,
    )


def _distinction(first: Settings, swept: list[str]) -> str:
    """The settings in which a program differs from other programs of the sweep, as text."""
    values = settings.program_settings(first)
    return ", ".join(f"{name}={values[name]}" for name in swept if name in values) or "all settings alike"


def _unfinished(program: Program) -> Program:
    """The program with only those runs that have no result yet."""
    unfinished = np.array([run.folder.result() is None for run in program.runs])
    return program.with_runs(multihost.from_first(unfinished))


def _split_by_progress(program: Program) -> list[Program]:
    """Splits the program into parts whose runs continue from the same epoch. Usually there is one part.

    Runs that train together continue from the newest epoch that all of them have saved, and no run may lose epochs to
    the others in its part. Runs that have begun therefore train apart from the new runs of a larger sweep. If the runs
    that have begun have no saved epoch in common, runs with different newest epochs train apart as well.
    """
    saved = [set(checkpoint.steps(folder.checkpoints)) for folder in program.folders]
    begun = [(folder.path / "metrics.jsonl").exists() for folder in program.folders]
    saved_of_begun = [epochs for epochs, has_begun in zip(saved, begun, strict=True) if has_begun]
    # A kill during the very first save leaves runs with one checkpoint and runs with none: they all start again.
    only_first_saves = all(len(epochs) <= 1 for epochs in saved_of_begun)
    together = only_first_saves or bool(set.intersection(*saved_of_begun))

    def part_of(epochs: set[int], has_begun: bool) -> int:
        """A number that the runs of a part have in common."""
        if not has_begun:
            return -1
        return 0 if together else max(epochs, default=0)

    parts = multihost.from_first(np.array(list(map(part_of, saved, begun)), np.int64))
    return [program.with_runs(parts == part) for part in sorted(set(parts.tolist()), reverse=True)]


def _checkpoint_bytes(program: Program, keep: int) -> int:
    """The bytes of the checkpoints that the program will add: the number in --keep, the best one, and one that is being
    written."""
    state = jax.eval_shape(program.functions.init, build.arrays(program.settings))
    number = keep + bool(len(program.data.validation)) + 1
    missing = [max(0, number - len(checkpoint.steps(folder.checkpoints))) for folder in program.folders]
    return sum(missing) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _report_other_code(folders: list[RunFolder], pending: set[Path]) -> None:
    """Prints which runs were trained or begun by another version of the code, and records the change in the runs that
    continue. A folder belongs to a run's settings, not to a version of the code."""
    changes = {folder: changed for folder in folders if (changed := folder.changed_code())}
    parts = ", ".join(dict.fromkeys(part for changed in changes.values() for part in changed))
    if trained := [folder for folder in changes if folder.path not in pending]:
        print(
            f"{len(trained)} of {len(folders)} runs were trained by code that has changed since ({parts}), and stay as"
            " they are; choose another --workdir to train them again"
        )
    if begun := [folder for folder in changes if folder.path in pending and folder.rows()]:
        print(
            f"{len(begun)} of {len(folders)} runs were begun by code that has changed since ({parts}); the present code"
            " continues them (see config.json)"
        )
        for folder in begun:
            folder.record_change_of_code()
