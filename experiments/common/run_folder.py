"""The folder of one run, and where the runs of a workdir lie.

    config.json        every setting, versions, device, precision, git commit and data checksum; if the code changed
                       before the run was finished, also the code that continued it
    metrics.jsonl      a row for each evaluation; the names carry the units
    timing.jsonl       the seconds of training at each evaluation and checkpoint, apart from metrics.jsonl, so that a
                       resumed run writes the same bytes into metrics.jsonl
    result.json        the settings and test figures of the finished run
    evaluations.jsonl  a row for each later `python -m experiments.evaluate`
    checkpoints/  figures/  tensorboard/  profile/

A single run lies in the workdir itself. The workdir of a sweep has one such folder for each run in runs/, and beside it
results.csv, results.md and figures/ for all runs together.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import IO, Any

from experiments.common import files, foreign_files, locks, provenance
from experiments.common.settings import Settings, from_json
from vae import checkpoint
from vae.data import Dataset


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self._lock: IO[str] | None = None

    # --- the run that the folder belongs to

    def claim(self, settings: Settings, data: Dataset, data_dir: str | None = None) -> None:
        """Writes config.json, or checks that an earlier start of the same run wrote the config.json that is there.

        No other process can claim the folder until `close()`, or until this process ends.

        Args:
          data_dir: The folder of the data, which config.json records for later evaluations.

        Raises:
          ValueError: If the folder belongs to a run with other settings or other data, or another process trains it.
          OSError: If the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = locks.claim(self.path)
        if self.belongs_to(settings):
            self.check_data(data)
        else:
            files.write_json(self.path / "config.json", describe(settings, data, data_dir))

    def close(self) -> None:
        """Lets another process claim the folder."""
        if self._lock:
            self._lock.close()

    def belongs_to(self, settings: Settings) -> bool:
        """Whether a run with these settings was started here; false if no run was.

        Raises:
          ValueError: If the folder belongs to a run with other settings.
        """
        if not (self.path / "config.json").exists():
            return False
        wanted = settings.json()
        present = self.settings().json()
        differences = [f"{name}={present[name]}" for name in wanted if present[name] != wanted[name]]
        if differences:
            raise ValueError(
                f"--workdir={self.path} holds a run with other settings ({', '.join(differences)}); "
                f"choose another --workdir, or delete this folder"
            )
        return True

    def check_data(self, data: Dataset) -> None:
        """Refuses data that the run was not started with.

        Raises:
          ValueError: If neither checksum agrees.
        """
        # A run may be started with its images on disk and continued with them in memory: one equal checksum suffices.
        recorded = {self.config()["data"].get(name) for name in ("checksum", "files_checksum")}
        if recorded.isdisjoint({data.checksum, data.files_checksum} - {""}):
            raise ValueError(
                f"--workdir={self.path} holds a run on other data ({data.name} has changed); choose another --workdir"
            )

    def data_dir(self) -> str | None:
        """The --data_dir with which the run was started, if this folder still exists; else None."""
        recorded = self.config()["data"].get("data_dir")
        return recorded if isinstance(recorded, str) and os.path.isdir(recorded) else None

    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
          ValueError: If there is no config.json, or it does not describe a run.
        """
        path = self.path / "config.json"
        if not path.exists():
            if runs := sorted((self.path / "runs").glob("*/config.json")):
                raise ValueError(
                    f"--workdir={self.path} is a sweep of {len(runs)} runs; give one of them, such as {runs[0].parent}"
                )
            raise ValueError(f"--workdir={self.path} holds no run (no config.json); give the folder of a trained run")
        config = files.read_json(path)
        if not foreign_files.is_run_config(config):
            raise ValueError(f"{path} does not describe a run; restore the file, or choose another --workdir")
        return config

    def settings(self) -> Settings:
        """The settings in config.json. Settings that were added to the project later have their defaults.

        Raises:
          ValueError: If there is no config.json, or it names a setting that does not exist.
        """
        recorded = self.config()["settings"]
        try:
            return from_json(recorded)
        except ValueError as error:
            raise ValueError(
                f"{self.path / 'config.json'} was written by another version or changed by hand: {error}"
            ) from None

    # --- the code that trained the run

    def changed_code(self) -> list[str]:
        """The changes of the project and its packages since the run was last trained; empty if there are none."""
        config = self.config()
        return provenance.changed_code([config, *config.get("continued", [])][-1])

    def record_change_of_code(self) -> None:
        """Adds to config.json the present code, which continues the run."""
        config = self.config()
        config["continued"] = [*config.get("continued", []), provenance.describe_code()]
        files.write_json(self.path / "config.json", config)

    # --- results and rows

    def result(self) -> dict[str, Any] | None:
        """The row of the finished run, with every setting; None before the run is finished.

        Raises:
          ValueError: If result.json is not the result of a run.
        """
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            return foreign_files.parse_result(files.read_json(path))
        except ValueError as error:
            raise ValueError(f"{path} {error}; restore the file, or choose another --workdir") from None

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
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

    def append(self, row: dict[str, Any], name: str = "metrics.jsonl") -> None:
        """Adds a row after the last whole row of a .jsonl file."""
        path = self.path / name
        if not files.ends_with_a_whole_line(path):
            files.write_rows(path, self.rows(name))
        files.append_row(path, row)

    def seconds(self) -> list[float] | None:
        """The seconds of training at each row of metrics.jsonl; None if there are no rows or no recorded times."""
        seconds_at = {row["step"]: row["train_seconds"] for row in self.rows("timing.jsonl")}
        steps = [row["step"] for row in self.rows()]
        return [seconds_at[step] for step in steps] if steps and set(steps) <= set(seconds_at) else None

    def validation_bounds(self) -> dict[int, float]:
        """The ELBO of the validation split in nats, by epoch; empty if the data have no validation split."""
        return {row["epoch"]: row["elbo_nats"] for row in self.rows() if row.get("split") == "validation"}

    # --- checkpoints

    def epoch_of(self, name: str) -> int | None:
        """The epoch of the checkpoint that --checkpoint names: "best", or a number. None for "latest": the newest
        checkpoint that can be read.

        Raises:
          ValueError: If there is no such checkpoint.
        """
        epochs = checkpoint.steps(self.checkpoints)
        if name == "latest":
            return None
        if name == "best":
            epoch = checkpoint.best(epochs, self.validation_bounds())
            if epoch is None:
                raise ValueError(
                    f"--checkpoint=best needs a validation bound, and {self.path} was trained without a validation"
                    f" split; choose --checkpoint=latest, or train with --validation_size"
                )
            return epoch
        if not name.isdecimal() or int(name) not in epochs:
            raise ValueError(
                f"--checkpoint={name} is not in {self.checkpoints}; choose latest, best or one of "
                f"{', '.join(map(str, epochs)) or '(none)'}"
            )
        return int(name)

    def forget_after(self, last_epoch: int) -> None:
        """Deletes the checkpoints and rows of later epochs, so that a resumed run writes them again."""
        checkpoint.drop_after(self.checkpoints, last_epoch)
        for name in ("metrics.jsonl", "timing.jsonl"):
            files.write_rows(self.path / name, [row for row in self.rows(name) if row["epoch"] <= last_epoch])

    def set_checkpoints_aside(self) -> None:
        """Moves checkpoints that cannot be read to checkpoints.unreadable/, because the disk's fault may pass."""
        aside = self.path / "checkpoints.unreadable"
        shutil.rmtree(aside, ignore_errors=True)
        if self.checkpoints.exists():
            self.checkpoints.rename(aside)


def describe(settings: Settings, data: Dataset, data_dir: str | None = None) -> dict[str, Any]:
    """The content of config.json for a run that starts now."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "settings": settings.json(),
        "data": {
            "name": data.name,
            "checksum": data.checksum,
            **({"files_checksum": data.files_checksum} if data.files_checksum else {}),
            "images": {name: len(images) for name, images in splits.items()},
            "shape": list(data.train.shape[1:]),
            "grey_levels": data.levels,
            **({"data_dir": os.path.abspath(os.path.expanduser(data_dir))} if data_dir else {}),
        },
        **provenance.describe_environment(),
    }


def run_folders(workdir: str | Path, runs: list[Settings], swept: list[str]) -> list[RunFolder]:
    """The folder of each run: the workdir itself for a single run, workdir/runs/NAME for the runs of a sweep.

    The folders of a sweep are found by their settings. So a larger sweep in the same workdir finds the runs that are
    there, and so does a later version of the project that has more settings.

    Args:
      swept: The names of the settings in which the runs differ; they become part of a new folder's name.

    Raises:
      ValueError: If a sweep is started in the workdir of a single run.
    """
    workdir = Path(workdir)
    if len(runs) == 1 and not (workdir / "runs").exists():
        return [RunFolder(workdir)]
    if (workdir / "config.json").exists():
        raise ValueError(f"--workdir={workdir} holds a single run; choose another folder for a sweep")

    present = {}
    for config in sorted((workdir / "runs").glob("*/config.json")):
        with contextlib.suppress(ValueError):  # a version with other settings wrote this one
            present[from_json(RunFolder(config.parent).config()["settings"])] = config.parent

    def folder(run: Settings) -> RunFolder:
        settings = run.json()
        values = "_".join(f"{key}={plain(settings[key])}" for key in swept)
        name = f"{values[:200]}_{run.digest()}"  # a file system takes 255 bytes
        return RunFolder(present.get(run, workdir / "runs" / name))

    return [folder(run) for run in runs]


def all_runs(workdir: str | Path) -> list[RunFolder]:
    """Every run folder of a workdir, finished or not."""
    workdir = Path(workdir)
    if (workdir / "config.json").exists():
        return [RunFolder(workdir)]
    return [RunFolder(path.parent) for path in sorted(workdir.glob("runs/*/config.json"))]


def plain(value: Any) -> str:
    """A setting's value as part of a file name: at most 40 characters of ASCII, which every locale can write."""
    return "".join(c if c.isascii() and c.isalnum() or c in "._-" else "-" for c in str(value))[-40:]
