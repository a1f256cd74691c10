"""The runs of one command, their programs, and the programs that are left to train.

run      the training of one model: one value for every setting, including the seed
program  runs that share one compiled function, because they differ only in numbers; they are trained, stored, resumed
         and evaluated together, in one folder
sweep    all programs of one command
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import build, cli, files, foreign_files, locks, program_state, provenance, settings
from experiments.common.program_folder import ProgramFolder, describe_data, plain, programs_of
from experiments.common.settings import Settings
from experiments.train import doubtful, gradients, multihost
from experiments.train.flags import Options
from experiments.train.gradients import Measurement
from experiments.train.profiling import Profile
from vae import checkpoint
from vae.data import Dataset


class Program(NamedTuple):
    """The runs of a program, and everything that they share.

    Attributes:
      number: The number of the group of runs that could share the program, counted from 1, as --program takes it.
      name: The number and the settings that distinguish the program; empty if the sweep has one group.
      runs: The settings of the runs. They differ only in numbers that the compiled function takes as arguments.
      folder: The folder of the program.
      data: The data set of all runs.
      streamed: Whether the training images are read while the runs train. Otherwise they lie on the device.
      functions: The functions to compile.
      profile: The trace that --profile_steps asks for.
      measurement: The measurement of the gradient that --measure_gradient asks for, or None.
    """

    number: int
    name: str
    runs: list[Settings]
    folder: ProgramFolder
    data: Dataset
    streamed: bool
    functions: build.Functions
    profile: Profile
    measurement: Measurement | None = None

    @property
    def settings(self) -> Settings:
        """The settings of the first run, from which the others differ only in array-valued settings."""
        return self.runs[0]

    def halves(self) -> tuple["Program", "Program"]:
        """Two programs with half of the runs each, and with folders of their own."""
        middle = len(self.runs) // 2
        folders = [ProgramFolder(f"{self.folder.path}-{half}") for half in (1, 2)]
        return (
            self._replace(runs=self.runs[:middle], folder=folders[0]),
            self._replace(runs=self.runs[middle:], folder=folders[1]),
        )


class Part(NamedTuple):
    """The runs of a program, and their place.

    Attributes:
      number: As in `Program`.
      folder: The path of the program's folder, relative to the workdir.
      runs: The settings of the runs.
    """

    number: int
    folder: str
    runs: list[Settings]


class Sweep:
    """The programs of a sweep, or those of the only group of runs that --program names.

    Runs that an earlier command has begun stay in their program, which is continued as a whole. New runs make a new
    program. So a larger sweep takes no run back to an earlier epoch.

    Of several processes, process 0 alone reads the workdir and decides which runs form a program.

    The constructor loads the data and traces every program, so bad input is refused before any work is done.

    Attributes:
      runs: All runs of the command, also those of programs that --program leaves out.

    Raises:
      ValueError, NotImplementedError: If settings or options do not go together.
      OSError: If a file cannot be read.
    """

    def __init__(self, runs: list[Settings], workdir: Path, options: Options):
        groups = list(settings.programs(runs))
        if options.program > len(groups):
            raise ValueError(f"--program={options.program} does not exist; give a number from 1 to {len(groups)}")
        self.workdir = workdir
        self.options = options
        self.runs = runs
        self.swept = [name for name in settings.FIELDS if len({getattr(run, name) for run in runs}) > 1]
        self.programs: list[Program] = []
        parts = _read_partition(workdir, groups, self.swept) if multihost.is_first() else []
        for part in _from_first(parts):
            if options.program in (0, part.number):
                folder = ProgramFolder(workdir / part.folder)
                name = _program_name(part.number, groups, self.swept)
                self.programs.append(_make_program(part.number, name, part.runs, folder, options))
        files.check_writable(workdir)

    def claim(self) -> list[Program]:
        """Makes the folders of all programs and keeps other processes from training them.

        Prints which programs another version of the code trained or began.

        Returns:
          The programs that are not finished, to be trained one after the other.

        Raises:
          ValueError: If a folder belongs to other runs or another process, or if the disk is too small.
        """
        for program in self.programs:
            program.folder.claim(program.runs, program.data, self.options.data_dir)
        finished = multihost.from_first(np.array([program.folder.is_finished() for program in self.programs]))
        unfinished = [program for program, done in zip(self.programs, finished, strict=True) if not done]
        for program, done in zip(self.programs, finished, strict=True):
            if done:
                program.folder.close()
        _report_other_code(self.programs, unfinished)
        if multihost.is_first():
            needed = sum(_checkpoint_bytes(program, self.options.keep) for program in unfinished)
            files.check_space(self.workdir, needed)
            if unfinished:
                self.record_command()
        return unfinished

    def close(self) -> None:
        """Lets other processes claim the folders."""
        for program in self.programs:
            program.folder.close()

    def diverged(self) -> list[str]:
        """A sentence for each run that diverged when an earlier command trained it."""
        return [
            f"{program.folder.run_path(i)}: the training was not finite at step {row['step']} in an earlier command;"
            " delete the folder to train this run again with other code"
            for program in self.programs
            if program.folder.is_finished()  # of the others, the end of the training says it
            for i, row in enumerate(program.folder.results())
            if row and row["status"] == "diverged"
        ]

    def record_command(self) -> None:
        """Describes the command in config.json, unless the same command is described there.

        A command with --program is left out if a command for all programs is described there, as the one that submitted
        the jobs of a cluster is.
        """
        path = self.workdir / "config.json"
        data = {program.data.name: describe_data(program.data, self.options.data_dir) for program in self.programs}
        described = {
            "command": cli.this_command(),
            "settings": _lists(self.runs, self.swept),
            "data": list(data.values()) if len(data) > 1 else next(iter(data.values())),
            **provenance.describe_environment(),
        }
        with locks.taking_turns(self.workdir):  # jobs of a cluster start at the same time
            config = _read_config(self.workdir) or described
            earlier = [config, *config.get("later", [])]
            same = [str(one.get("command")) for one in earlier if one.get("settings") == described["settings"]]
            is_part = self.options.program and any("--program" not in command for command in same)
            if described["command"] not in same and not is_part:
                config["later"] = [*config.get("later", []), described]
            files.write_json(path, config)


def partition(groups: list[list[Settings]], present: dict[str, list[Settings]], swept: list[str]) -> list[Part]:
    """Divides groups of runs into programs.

    Args:
      groups: The runs that could share a program, for each program.
      present: The runs of each folder that an earlier command made. These runs stay together.
      swept: The settings in which the groups may differ.
    """
    folder_of = {run: folder for folder, runs in present.items() for run in runs}
    parts = []
    for number, group in enumerate(groups, 1):
        begun = dict.fromkeys(folder_of[run] for run in group if run in folder_of)
        parts += [Part(number, folder, present[folder]) for folder in begun]
        if new := [run for run in group if run not in folder_of]:
            parts.append(Part(number, f"programs/{_folder_name(new, _distinction(group[0], swept))}", new))
    return parts


def _read_partition(workdir: Path, groups: list[list[Settings]], swept: list[str]) -> list[Part]:
    """Divides groups of runs into programs, given the programs that lie in the workdir.

    Raises:
      ValueError: If the workdir cannot take the runs.
    """
    runs = [run for group in groups for run in group]
    foreign_files.refuse_links(workdir)
    _read_config(workdir)
    holds_a_run = (workdir / "runs.json").exists()
    if len(runs) == 1 and not (workdir / "programs").exists():
        if holds_a_run:
            ProgramFolder(workdir).check_runs(runs)
        return [Part(1, ".", runs)]
    if holds_a_run:
        raise ValueError(
            f"--workdir={workdir} holds a single run, and takes no further runs; choose another --workdir for the sweep"
        )
    present = {f"programs/{folder.path.name}": _readable_runs(folder) for folder in programs_of(workdir)}
    return partition(groups, present, swept)


def _from_first(parts: list[Part]) -> list[Part]:
    """The parts that process 0 has, in every process."""
    sent = [part._replace(runs=[run.json() for run in part.runs]) for part in parts]
    text = multihost.text_from_first(json.dumps(sent))
    if multihost.is_first():
        return parts
    received = [Part(*values) for values in json.loads(text)]
    return [part._replace(runs=[settings.from_json(run) for run in part.runs]) for part in received]


def _read_config(workdir: Path) -> dict[str, Any] | None:
    """The content of config.json; None if there is none.

    Raises:
      ValueError: If it does not describe a command of training.
    """
    path = workdir / "config.json"
    if not path.exists():
        return None
    config = files.read_json(path)
    later = config.get("later", [])
    if not isinstance(later, list) or not all(isinstance(one, dict) and "data" in one for one in [config, *later]):
        raise ValueError(f"{path} does not describe a training; restore the file, or choose another --workdir")
    return config


def _readable_runs(folder: ProgramFolder) -> list[Settings]:
    """The runs of a folder; none if a version with other settings wrote it."""
    try:
        return folder.runs()
    except ValueError:
        return []


def _make_program(number: int, name: str, runs: list[Settings], folder: ProgramFolder, options: Options) -> Program:
    first = runs[0]
    data = build.load_data(first, options.data_dir, options.cache_dir, options.streaming)
    doubtful.warn(first, data)
    too_large = data.train.nbytes > build.resident_bytes(options.streaming)
    with jax.default_matmul_precision(first.matmul_precision):
        functions = build.functions(first, data)
        measurement = None
        if options.measure_gradient:
            measurement = gradients.plan(first, data, functions, options.measure_estimators, options.measure_draws)
    profile = Profile(
        options.profile_steps,
        folder=folder.path / "profile",
        steps_per_epoch=functions.steps_per_epoch,
        epochs=first.epochs,
    )
    return Program(
        number=number,
        name=name,
        runs=runs,
        folder=folder,
        data=data,
        streamed=bool(multihost.from_first(np.array(too_large))),
        functions=functions,
        profile=profile,
        measurement=measurement,
    )


def _program_name(number: int, groups: list[list[Settings]], swept: list[str]) -> str:
    """The number of a program and the settings that distinguish it; empty if there is one group of runs."""
    if len(groups) == 1:
        return ""
    distinction = _distinction(groups[number - 1][0], swept)
    words = ", ".join(f"{name}={value}" for name, value in distinction.items()) or "all settings alike"
    return f"program {number} of {len(groups)}, {words}"


def _distinction(first: Settings, swept: list[str]) -> dict[str, Any]:
    """The settings in which a program differs from other programs of the sweep."""
    values = settings.program_settings(first)
    return {name: values[name] for name in swept if name in values}


def _folder_name(runs: list[Settings], distinction: dict[str, Any]) -> str:
    """A name that tells a person what distinguishes the program, and that no other program has."""
    values = [f"{name}={plain(value)}" for name, value in distinction.items()]
    return "_".join([*values, ""])[:200] + settings.digest_of(runs)  # a file system takes 255 bytes


def _lists(runs: list[Settings], swept: list[str]) -> dict[str, Any]:
    """The settings of a sweep as JSON; a swept setting has the list of its values."""
    rows = [run.json() for run in runs]
    return {
        name: list(dict.fromkeys(row[name] for row in rows)) if name in swept else value
        for name, value in rows[0].items()
    }


def _checkpoint_bytes(program: Program, keep: int) -> int:
    """The bytes of the checkpoints that the program will add: the number in --keep, and one that is being written, but
    at most one for each epoch."""
    shape = program_state.shape_of(program.functions, len(program.runs), bool(len(program.data.validation)))
    missing = max(0, min(keep + 1, program.settings.epochs) - len(checkpoint.steps(program.folder.checkpoints)))
    return missing * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shape))


def _report_other_code(programs: list[Program], unfinished: list[Program]) -> None:
    """Prints which programs another version of the code trained or began, and records the change in those that go on.

    A folder belongs to settings, not to a version of the code.
    """
    continued = {program.folder for program in unfinished}
    changes = {program.folder: program.folder.changed_code() for program in programs}
    total = sum(len(program.runs) for program in programs)

    def report(chosen: list[Program], what: str, consequence: str) -> None:
        count = sum(len(program.runs) for program in chosen)
        parts = ", ".join(dict.fromkeys(part for program in chosen for part in changes[program.folder]))
        if chosen:
            print(f"{count} of {total} runs were {what} by code that has changed since ({parts}); {consequence}")

    changed = [program for program in programs if changes[program.folder]]
    trained = [program for program in changed if program.folder not in continued]
    goes_on = [program for program in changed if program.folder in continued]
    begun = [program for program in goes_on if program.folder.has_begun()]
    again = "they stay as they are; choose another --workdir, or delete this one, to train them again"
    report(trained, "trained", again)
    report(begun, "begun", "the present code continues them (see runs.json)")
    for program in goes_on:
        program.folder.record_change_of_code()
