"""What a report shows, read from workdirs: runs of `experiments.train`, results of `experiments.compare_estimators` and
of `experiments.toy_bernoulli`.

Nothing is computed here but labels; every number is a row's.
"""

import csv
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import checks, cli, results, settings
from experiments.common.files import read_json
from experiments.common.run_folder import RunFolder, all_runs


class Run(NamedTuple):
    """One run of training.

    Attributes:
      row: its line of results.csv, or its settings alone while it is not finished; "workdir" where there are several.
      seconds: of training, for each of `rows`; None where they were not kept.
      evaluations: what `experiments.evaluate` found later.
    """

    folder: RunFolder
    config: dict[str, Any]
    row: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: list[float] | None
    evaluations: list[dict[str, Any]]


class Laboratory(NamedTuple):
    """One result of `experiments.compare_estimators`: a row for each estimator, K and point."""

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def groups(self) -> list[str]:
        """The groups of parameters that were judged apart."""
        return [key.removesuffix("_verdict") for key in self.rows[0] if key.endswith("_verdict")]

    def pairs(self) -> list[dict[str, Any]]:
        """Ratios of two estimators' figures at a point, with their intervals; read anew."""
        return _rows(self.path / "pairs.csv")

    @property
    def point(self) -> str | None:
        """What the points of a sweep differ in: the column after the problem's name."""
        return next((key for key in list(self.rows[0])[1:2] if key != "estimator"), None)


class Toy(NamedTuple):
    """One result of `experiments.toy_bernoulli`: a row for each point and estimator; its curves, one for each step."""

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]


class Contents(NamedTuple):
    """Everything, and the settings in which runs differ, but for the seed, by their names."""

    runs: list[Run]
    laboratories: list[Laboratory]
    toys: list[Toy]
    names: list[str]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The rows of results.csv, of all workdirs."""
        return [run.row for run in self.runs if "status" in run.row]

    def label(self, row: dict[str, Any]) -> str:
        """What distinguishes a row's settings from those of the others."""
        return results.label(row if self.names else self.runs[0].row, self.names)

    def by_label(self) -> dict[str, list[Run]]:
        """Runs that differ in the seed alone, together; best first, unfinished ones last."""
        found: dict[str, list[Run]] = {}
        if self.finished:
            found = {self.label(row): [] for row in results.aggregate(self.finished, self.names)}
        for run in self.runs:
            found.setdefault(self.label(run.row), []).append(run)
        return found


def read(paths: list[Path]) -> Contents:
    """Everything that the workdirs hold.

    Raises:
      ValueError: naming one that holds neither a run nor a laboratory's result.
    """
    runs, laboratories, toys = [], [], []
    for path in paths:
        mine = [_run(folder, path if len(paths) > 1 else None) for folder in _trained(path)]
        found = _measured_in(path)
        if not mine and not found:
            raise ValueError(
                f"--workdir={path} holds no run and no result of compare_estimators or toy_bernoulli (no config.json);"
                " give the folder of a trained run, of a sweep, of the laboratory or of a toy problem"
            )
        runs += mine
        laboratories += [one for one in found if isinstance(one, Laboratory)]
        toys += [one for one in found if isinstance(one, Toy)]
    return Contents(runs, laboratories, toys, results.varying([run.row for run in runs]))


def commands(runs: list[Run]) -> list[str]:
    """Command lines that train these runs: one where they are a product of lists, else one for each such part."""
    rows = [{name: (str(value),) for name, value in run.folder.settings().json().items()} for run in runs]
    rows = [dict(items) for items in dict.fromkeys(tuple(row.items()) for row in rows)]
    for name in rows[0]:  # what differs in this setting alone becomes one list
        merged: dict[tuple, dict[str, tuple[str, ...]]] = {}
        for row in rows:
            alike = tuple((key, value) for key, value in row.items() if key != name)
            merged[alike] = row | {name: merged.get(alike, {name: ()})[name] + row[name]}
        rows = list(merged.values())
    return [_command(row) for row in rows]


def _command(values: dict[str, tuple[str, ...]]) -> str:
    default = settings.Settings().json()
    lower = lambda value: value.lower() if value in ("True", "False") else value
    flags = [
        f"--{name}={','.join(map(lower, chosen))}" for name, chosen in values.items() if chosen != (str(default[name]),)
    ]
    if not all(name == "digits" or name.startswith("npz:") for name in values["dataset"]):
        flags.append("--data_dir=DIR")
    return shlex.join(["python", "-m", cli.module("train"), *flags])


def _trained(path: Path) -> list[RunFolder]:
    return [folder for folder in all_runs(path) if "data" in read_json(folder.path / "config.json")]


def _run(folder: RunFolder, workdir: Path | None) -> Run:
    row = folder.result() or folder.settings().json()
    row |= {"workdir": str(workdir)} if workdir else {}
    return Run(folder, folder.config(), row, folder.rows(), folder.seconds(), folder.rows("evaluations.jsonl"))


def _measured_in(path: Path) -> list[Laboratory | Toy]:
    """The laboratory's and the toys' results here and in the folders below, of which it says what is not shown."""
    found = []
    for config in [path / "config.json", *sorted(path.glob("*/config.json"))]:
        if config.exists() and "command" in read_json(config):
            try:
                found.append(_measured(config.parent))
            except ValueError as error:
                if config.parent == path:
                    raise
                print(f"not shown: {error}")
    return found


def _measured(path: Path) -> Laboratory | Toy:
    config, rows = read_json(path / "config.json"), _rows(path / "results.csv")
    if checks.is_laboratory(config, rows):
        return Laboratory(path, config, rows)
    if (path / "curves.csv").exists() and checks.is_toy(config, rows, curves := _rows(path / "curves.csv")):
        return Toy(path, config, rows, curves)
    raise ValueError(f"{path} does not hold what the laboratory or a toy problem leaves; leave it out of --workdir")


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file.

    Raises:
      ValueError: if there is none.
    """
    rows = []
    if path.exists():
        try:
            with open(path, newline="") as file:
                rows = [{key: _typed(text) for key, text in row.items()} for row in csv.DictReader(file)]
        except (csv.Error, ValueError, TypeError):  # no text, or lines that are longer than the header
            raise ValueError(f"{path} is no table; restore it, or leave the folder out of --workdir") from None
    if not rows:
        raise ValueError(
            f"{path.parent} has no rows in {path.name}; measure again, or leave the folder out of --workdir"
        )
    return rows


def _typed(text: str) -> Any:
    """A cell of a CSV file as what was written: empty is NaN."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text or "nan")
        except ValueError:
            continue
    return text
