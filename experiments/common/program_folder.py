"""The folder of a program, and where the programs of a workdir lie.

    runs.json          the settings of every run, and its results when the program is finished; the data's checksum;
                       versions, device and git commit, and each later version of the code that continued the program;
                       the reason, if the canary let the runs train one after the other
    metrics.jsonl      a row for each evaluation and run; the names carry the units
    timing.jsonl       the seconds of training at each evaluation and checkpoint, apart from metrics.jsonl, so that a
                       resumed program writes the same bytes into metrics.jsonl
    evaluations.jsonl  a row for each later evaluation of a run by `python -m experiments.evaluate`
    checkpoints/EPOCH  the state of all runs; see program_state.py
    figures/  tensorboard/  profile/

A single run is a program of one, and lies in the workdir itself. The workdir of a sweep has one such folder for each
program in programs/. The number of a run is its place in runs.json; rows name the run by its number.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import IO, Any

from experiments.common import files, foreign_files, locks, provenance
from experiments.common.settings import Settings, from_json
from vae import checkpoint
from vae.data import Dataset

Row = dict[str, Any]


class ProgramFolder:
    """Reads and writes the files of one program."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._lock: IO[str] | None = None

    # --- the runs of the program

    def claim(self, runs: list[Settings], data: Dataset, data_dir: str | None = None) -> None:
        """Writes runs.json, or checks that an earlier start of the same program wrote the runs.json that is there.

        No other process can claim the folder until `close()`, or until this process ends.

        Args:
          data_dir: The folder of the data, which runs.json records for later evaluations.

        Raises:
          ValueError: If the folder belongs to other runs or other data, or another process trains it.
          OSError: If the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = locks.claim(self.path)
        if not self.exists():
            files.write_json(self.path / "runs.json", describe(runs, data, data_dir))
            return
        self.check_runs(runs)
        self.check_data(data)

    def close(self) -> None:
        """Lets another process claim the folder."""
        if self._lock:
            self._lock.close()

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.path)

    def exists(self) -> bool:
        """Whether a program was started here."""
        return (self.path / "runs.json").exists()

    def has_begun(self) -> bool:
        """Whether there is a row or a checkpoint, so that the program's runs must stay together."""
        return bool(files.read_lines(self.path / "metrics.jsonl") or checkpoint.steps(self.checkpoints))

    def check_runs(self, runs: list[Settings]) -> None:
        """Refuses a folder whose runs have other settings.

        Raises:
          ValueError: If they have.
        """
        present = self.runs()
        if present != runs:
            pairs = [(ours.json(), theirs.json()) for ours, theirs in zip(present, runs, strict=False)]
            differences = [f"{name}={a[name]} and not {b[name]}" for a, b in pairs for name in a if a[name] != b[name]]
            named = ", ".join(dict.fromkeys(differences)) or f"{len(present)} runs and not {len(runs)}"
            raise ValueError(
                f"--workdir={self.path} holds a run with other settings ({named}), and takes no further runs; choose"
                " another --workdir"
            )

    def check_data(self, data: Dataset) -> None:
        """Refuses data that the program was not started with.

        Raises:
          ValueError: If neither checksum agrees.
        """
        # A program may be started with its images on disk and continued with them in memory: one equal checksum
        # suffices.
        recorded = {self.record()["data"].get(name) for name in ("checksum", "files_checksum")}
        if recorded.isdisjoint({data.checksum, data.files_checksum} - {""}):
            raise ValueError(
                f"--workdir={self.path} holds a run on other data ({data.name} has changed); choose another --workdir"
            )

    def data_dir(self) -> str | None:
        """The --data_dir with which the program was started, if this folder still exists; else None."""
        recorded = self.record()["data"].get("data_dir")
        return recorded if isinstance(recorded, str) and os.path.isdir(recorded) else None

    def record(self) -> dict[str, Any]:
        """The content of runs.json.

        Raises:
          ValueError: If there is no runs.json, or it does not describe a program.
        """
        path = self.path / "runs.json"
        if not path.exists():
            raise no_run(self.path)
        record = files.read_json(path)
        if not foreign_files.is_program_record(record):
            raise ValueError(f"{path} does not describe runs; restore the file, or choose another --workdir")
        return record

    def runs(self) -> list[Settings]:
        """The settings of each run. Settings that were added to the project later have their defaults.

        Raises:
          ValueError: If there is no runs.json, or it names a setting that does not exist.
        """
        record = self.record()
        try:
            shared = from_json(record["settings"])
            return [from_json(run["settings"], shared) for run in record["runs"]]
        except ValueError as error:
            named = record.get("imports")
            lacking = [name for name in named if name not in sys.modules] if isinstance(named, dict) else []
            if lacking:
                raise ValueError(
                    f"--workdir={self.path} was trained with --import={','.join(lacking)}; add it, or in Python"
                    f" import {', '.join(lacking)} first"
                ) from None
            raise ValueError(
                f"{self.path / 'runs.json'} was written with another --import or version, or changed by hand: {error}"
            ) from None

    def run_names(self) -> list[str]:
        """For each run a name for its files: its number, and the settings in which it differs from the others."""
        values = [run["settings"].items() for run in self.record()["runs"]]
        return [
            "_".join([f"run{i}", *(f"{name}={plain(value)}" for name, value in items)])[:200]
            for i, items in enumerate(values)
        ]

    def run_path(self, i: int) -> str:
        """The words that name run i in a sentence: the folder, and the run's name if there are several."""
        names = self.run_names()
        return f"{self.path} ({names[i]})" if len(names) > 1 else str(self.path)

    def figures(self) -> list[Path]:
        """For each run the folder of its pictures: figures/ for a run alone, and a folder with its name for others."""
        names = self.run_names()
        return [self.path / "figures" / (name if len(names) > 1 else "") for name in names]

    # --- the code that trained the program

    def changed_code(self) -> list[str]:
        """The changes of the project and its packages since the program was last trained; empty if there are none."""
        record = self.record()
        return provenance.changed_code([record, *record.get("continued", [])][-1])

    def record_change_of_code(self) -> None:
        """Adds to runs.json the present code, which continues the program; of a program that has not begun, the present
        code is the only one."""
        record = self.record()
        if self.has_begun():
            record["continued"] = [*record.get("continued", []), provenance.describe_code()]
        else:
            record = {name: value for name, value in record.items() if name != "continued"}
            record |= provenance.describe_environment()
        files.write_json(self.path / "runs.json", record)

    # --- runs that an accelerator computes wrongly side by side

    def fallback(self) -> str:
        """The reason why the runs train one after the other, whatever --sweep_mode says; empty if there is none."""
        return self.record().get("fallback", "")

    def record_fallback(self, reason: str) -> None:
        """Writes the reason into runs.json."""
        files.write_json(self.path / "runs.json", self.record() | {"fallback": reason})

    # --- results and rows

    def results(self) -> list[Row | None]:
        """For each run its result, with every setting; None before the run is finished.

        Raises:
          ValueError: If runs.json does not hold results of runs.
        """
        records = self.record()["runs"]
        runs = [(settings.json(), run.get("result")) for settings, run in zip(self.runs(), records, strict=True)]
        try:
            return [result and settings | foreign_files.parse_result(result) for settings, result in runs]
        except ValueError as error:
            raise ValueError(
                f"{self.path / 'runs.json'} {error}; restore the file, or choose another --workdir"
            ) from None

    def write_results(self, results: dict[int, Row]) -> None:
        """Adds the figures of finished runs to runs.json, by the numbers of the runs."""
        record = self.record()
        for i, result in results.items():
            record["runs"][i]["result"] = result
        files.write_json(self.path / "runs.json", record)

    def is_finished(self) -> bool:
        """Whether every run has a result."""
        return self.exists() and all(self.results())

    def rows(self, name: str = "metrics.jsonl") -> list[Row]:
        """The rows of a .jsonl file, without a half-written last line.

        Raises:
          ValueError: If a line is not a row; the message has the line's number.
        """
        path = self.path / name
        rows = []
        for number, line in enumerate(files.read_lines(path), 1):
            try:
                rows.append(foreign_files.parse_row(line, name))
            except ValueError as error:
                raise ValueError(
                    f"{path}: line {number} {error}; restore the file, or choose another --workdir"
                ) from None
        return rows

    def rows_by_run(self, name: str = "metrics.jsonl") -> list[list[Row]]:
        """The rows of each run in a .jsonl file.

        Raises:
          ValueError: As `rows`, or if a row names a run that the program does not have.
        """
        by_run: list[list[Row]] = [[] for _ in self.record()["runs"]]
        for row in self.rows(name):
            if not 0 <= row["run"] < len(by_run):
                raise ValueError(f"{self.path / name} has a row of run {row['run']}, and there are {len(by_run)} runs")
            by_run[row["run"]].append(row)
        return by_run

    def append(self, rows: list[Row], name: str = "metrics.jsonl") -> None:
        """Adds rows after the last whole row of a .jsonl file."""
        path = self.path / name
        if not files.ends_with_a_whole_line(path):
            files.write_rows(path, self.rows(name))
        files.append_rows(path, rows)

    def seconds(self) -> dict[int, float]:
        """The seconds of training up to each recorded epoch."""
        return {row["epoch"]: row["train_seconds"] for row in self.rows("timing.jsonl")}

    def forget_after(self, last_epoch: int) -> None:
        """Deletes the checkpoints and rows of later epochs, so that a resumed program writes them again."""
        checkpoint.drop_after(self.checkpoints, last_epoch)
        for name in ("metrics.jsonl", "timing.jsonl"):
            files.write_rows(self.path / name, [row for row in self.rows(name) if row["epoch"] <= last_epoch])

    def set_checkpoints_aside(self, epochs: list[int]) -> None:
        """Moves checkpoints that cannot be read to checkpoints.unreadable/, because the disk's fault may pass."""
        for epoch in epochs:
            aside = self.path / "checkpoints.unreadable" / str(epoch)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            shutil.move(self.checkpoints / str(epoch), aside)  # the checkpoints may lie on another disk


def describe(runs: list[Settings], data: Dataset, data_dir: str | None = None) -> dict[str, Any]:
    """The content of runs.json for a program that starts now."""
    rows = [run.json() for run in runs]
    differing = [name for name in rows[0] if any(row[name] != rows[0][name] for row in rows)]
    return {
        "settings": {name: value for name, value in rows[0].items() if name not in differing},
        "runs": [{"settings": {name: row[name] for name in differing}} for row in rows],
        "data": describe_data(data, data_dir),
        **provenance.describe_environment(),
    }


def describe_data(data: Dataset, data_dir: str | None) -> dict[str, Any]:
    """The part of runs.json and config.json about a data set."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "name": data.name,
        "checksum": data.checksum,
        **({"files_checksum": data.files_checksum} if data.files_checksum else {}),
        "images": {name: len(images) for name, images in splits.items()},
        "shape": list(data.train.shape[1:]),
        "grey_levels": data.levels,
        **({"data_dir": os.path.abspath(os.path.expanduser(data_dir))} if data_dir else {}),
    }


def programs_of(workdir: str | Path) -> list[ProgramFolder]:
    """Every program of a workdir, finished or not. The workdir may also be the folder of one program of a sweep."""
    workdir = Path(workdir)
    if (workdir / "runs.json").exists():
        return [ProgramFolder(workdir)]
    return [ProgramFolder(path.parent) for path in sorted(workdir.glob("programs/*/runs.json"))]


def no_run(workdir: str | Path) -> ValueError:
    """The error about a workdir without runs."""
    reason = "holds no run (no runs.json)" if Path(workdir).exists() else "does not exist"
    return ValueError(f"--workdir={workdir} {reason}; give the folder of a trained run")


def plain(value: Any) -> str:
    """A setting's value as part of a file name: at most 40 characters of ASCII, which every locale can write."""
    text = re.sub(r"(?<=\d)e\+(?=\d)", "e", str(value))  # 1e+25 must not become 1e-25
    return "".join(c if c.isascii() and c.isalnum() or c in "._-" else "-" for c in text)[-40:]
