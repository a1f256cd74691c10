"""The contents of workdirs, read from disk: runs of `experiments.train`, and results of
`experiments.compare_estimators` (the laboratory) and of `experiments.toy_bernoulli`.

This module computes labels only; every number comes from a row of a file.
"""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import foreign_files, results, run_selection, tables
from experiments.common.files import read_json
from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import Settings


class Run(NamedTuple):
    """One run of training.

    Attributes:
      folder: The folder of the run's program.
      number: The number of the run in its program.
      settings: The settings of the run.
      record: The content of the program's runs.json.
      row: The line of the run in results.csv, or its settings alone while the run trains. If several workdirs are
        read, the row also has a "workdir".
      rows: The evaluations of the run, in the order in which they were made.
      seconds: Seconds of training at each of `rows`, or None if no time was recorded.
      figures: The folder of the run's pictures.
      evaluations: The rows that `experiments.evaluate` added later.
    """

    folder: ProgramFolder
    number: int
    settings: Settings
    record: dict[str, Any]
    row: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: list[float] | None
    figures: Path
    evaluations: list[dict[str, Any]]


class Laboratory(NamedTuple):
    """One result of `experiments.compare_estimators`, with a row for each estimator, K and point."""

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def groups(self) -> list[str]:
        """The groups of parameters that were compared separately."""
        return [key.removesuffix("_verdict") for key in self.rows[0] if key.endswith("_verdict")]

    @property
    def point(self) -> str | None:
        """The name of the quantity in which the points of a sweep differ: the column after the problem's name."""
        return next((key for key in list(self.rows[0])[1:2] if key != "estimator"), None)

    @property
    def judge_by(self) -> str:
        """The cost that decided the verdicts: a key of `charts.gradients.COSTS`."""
        named = self.config["settings"].get("judge_by")
        return named if named in ("evaluations", "seconds") and named in self.rows[0] else "flops"

    def pairs(self) -> list[dict[str, Any]]:
        """Ratios of the figures of two estimators at a point, with their intervals, read from pairs.csv."""
        return _read_csv(self.path / "pairs.csv")


class Toy(NamedTuple):
    """One result of `experiments.toy_bernoulli`.

    Attributes:
      rows: A row for each point and estimator.
      curves: A row for each point, estimator, seed and recorded step.
    """

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]


class Contents(NamedTuple):
    """Everything that some workdirs hold.

    Attributes:
      names: The names of the settings in which the runs differ, apart from the seed.
      training_commands: For each workdir with runs the commands that trained it, in their order; an empty list if they
        are not recorded.
    """

    runs: list[Run]
    laboratories: list[Laboratory]
    toys: list[Toy]
    names: list[str]
    training_commands: dict[Path, list[str]]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The rows of results.csv of all workdirs."""
        return [run.row for run in self.runs if "status" in run.row]

    def label(self, row: dict[str, Any]) -> str:
        """The settings of a row that distinguish it from the other rows."""
        return results.label(row if self.names else self.runs[0].row, self.names)

    def runs_by_label(self) -> dict[str, list[Run]]:
        """The runs of each setting, which differ in the seed alone. The best setting is first, unfinished ones last."""
        groups: dict[str, list[Run]] = {}
        if self.finished:
            groups = {self.label(row): [] for row in results.aggregate(self.finished, self.names)}
        for run in self.runs:
            groups.setdefault(self.label(run.row), []).append(run)
        return groups


def read(paths: list[Path], run: str | None = None) -> Contents:
    """Everything that the workdirs hold.

    Args:
      run: The value of --run, which chooses runs; None for every run.

    Raises:
      ValueError: If a workdir holds neither a run nor a result of the laboratory or a toy problem, or if a file in it
        is damaged. The message names the folder.
    """
    runs: list[Run] = []
    measured: list[Laboratory | Toy] = []
    training_commands: dict[Path, list[str]] = {}
    for path in paths:
        trained_here = _read_runs(path, run, name_workdir=len(paths) > 1)
        measured_here = _read_measurements(path)
        if not trained_here and not measured_here:
            nothing = "holds no run and no result of compare_estimators or toy_bernoulli (no config.json)"
            raise ValueError(
                f"--workdir={path} {nothing if Path(path).exists() else 'does not exist'};"
                " give the folder of a trained run, of a sweep, of the laboratory or of a toy problem"
            )
        if trained_here:
            runs += trained_here
            training_commands[path] = _recorded_commands(path)
        measured += measured_here
    return Contents(
        runs,
        laboratories=[one for one in measured if isinstance(one, Laboratory)],
        toys=[one for one in measured if isinstance(one, Toy)],
        names=results.varying([run.row for run in runs]),
        training_commands=training_commands,
    )


def _read_runs(path: Path, chosen: str | None, name_workdir: bool) -> list[Run]:
    runs = []
    for folder, numbers in run_selection.choose(path, chosen).items() if programs_of(path) else ():
        record, all_settings, all_results = folder.record(), folder.runs(), folder.results()
        rows, evaluations = folder.rows_by_run(), folder.rows_by_run("evaluations.jsonl")
        seconds, figures = folder.seconds(), folder.figures()
        for i in numbers:
            row = all_results[i] or all_settings[i].json()
            if name_workdir:
                row = row | {"workdir": str(path)}
            times = results.seconds_at(rows[i], seconds)
            one = (all_settings[i], record, row, rows[i], times, figures[i], evaluations[i])
            runs.append(Run(folder, i, *one))
    return runs


def _recorded_commands(workdir: Path) -> list[str]:
    """The commands in the config.json of a workdir, or of the sweep to which a program's folder belongs.

    The list is empty if there is no such file, or if the file is damaged.
    """
    path = workdir / "config.json"
    if not path.exists() and workdir.absolute().parent.name == "programs":
        path = workdir.absolute().parent.parent / "config.json"
    if not path.is_file() or path.is_symlink():  # a link could put a private file of the user into a page for others
        return []
    try:
        config = read_json(path)
    except ValueError:
        return []
    later = config.get("later", [])
    described = [config, *(later if isinstance(later, list) else [])]
    commands = [one.get("command") for one in described if isinstance(one, dict)]
    return [command for command in commands if isinstance(command, str) and command.isprintable()]


def _read_measurements(path: Path) -> list[Laboratory | Toy]:
    """The results of the laboratory and of toy problems in this folder and in the folders directly below it.

    A damaged result below the folder is left out, and a printed line says so.
    """
    measured = []
    for config in [path / "config.json", *sorted(path.glob("*/config.json"))]:
        try:
            if config.exists() and not programs_of(config.parent) and "command" in read_json(config):
                foreign_files.refuse_links(config.parent)
                measured.append(_read_measurement(config.parent))
        except ValueError as error:
            if config.parent == path:
                raise
            print(f"left out: {error}")
    return measured


def _read_measurement(path: Path) -> Laboratory | Toy:
    config = read_json(path / "config.json")
    rows = _read_csv(path / "results.csv")
    if foreign_files.is_laboratory(config, rows):
        return Laboratory(path, config, rows)
    if (path / "curves.csv").exists():
        curves = _read_csv(path / "curves.csv")
        if foreign_files.is_toy(config, rows, curves):
            return Toy(path, config, rows, curves)
    raise ValueError(f"{path} does not hold a result of the laboratory or of a toy problem; leave it out of --workdir")


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file.

    Raises:
      ValueError: If the file has no rows or is not a table.
    """
    rows = []
    if path.exists():
        try:
            rows = tables.read_csv(path)
        except ValueError as error:
            raise ValueError(f"{error}; restore it, or leave the folder out of --workdir") from None
    if not rows:
        raise ValueError(
            f"{path.parent} has no rows in {path.name}; measure again, or leave the folder out of --workdir"
        )
    return rows
