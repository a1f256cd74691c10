"""The files of a run's folder, each of which explains itself:

    config.json        every setting, versions, device, precision, git commit, data checksum; and, if the code changed
                       before the end, by which it went on
    metrics.jsonl      one row an evaluation; units stand in the names
    timing.jsonl       wall-clock of the same evaluations and of checkpoints, apart, so that a resumed run's metrics are
                       the same bytes
    result.json        the finished run: its settings and its test figures
    evaluations.jsonl  what `experiments.evaluate` found later
    checkpoints/  figures/  tensorboard/

A sweep's folder holds one such folder a run under runs/, and results.csv, results.md, figures/ over all of them.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import resource
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from experiments.common import checks
from experiments.common import provenance as circumstances
from experiments.common.options import is_printable
from experiments.common.settings import Settings, from_json
from vae import checkpoint, train
from vae.data import Dataset

# What a file system without locks says.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class RunFolder:
    """Reading and writing the files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints, self.figures = self.path / "checkpoints", self.path / "figures"

    def claim(self, settings: Settings, data: Dataset) -> None:
        """Writes config.json, or finds the one of an earlier start of the same run.

        Until this object is gone or its process is dead, no other process can claim it.

        Raises:
          ValueError: if the folder belongs to a run of other settings or other data, or another process trains it.
          OSError: if it cannot be written.
        """
        self.figures.mkdir(parents=True, exist_ok=True)
        self._lock()
        if self.is_of(settings):
            self.check_data(data)
        else:
            write_json(self.path / "config.json", _config(settings, data))

    def check_data(self, data: Dataset) -> None:
        """Refuses data that are not those of the run.

        Raises:
          ValueError: if they are others.
        """
        # One trained with its images on disk may go on with them in memory: either checksum will do.
        theirs = {self.config()["data"].get(name) for name in ("checksum", "files_checksum")}
        if theirs.isdisjoint({data.checksum, data.files_checksum} - {""}):
            raise ValueError(f"--workdir={self.path} holds a run on other data than {data.name} is now; choose another")

    def is_of(self, settings: Settings) -> bool:
        """Whether a run of these settings was started here; not, if none was.

        Raises:
          ValueError: if the folder belongs to a run of other settings.
        """
        if not (self.path / "config.json").exists():
            return False
        mine, theirs = settings.json(), self.settings().json()
        differing = [f"{k}={theirs[k]}" for k in mine if theirs[k] != mine[k]]
        if differing:
            raise ValueError(
                f"--workdir={self.path} holds a run with other settings ({', '.join(differing)}); "
                f"choose another --workdir, or delete this one"
            )
        return True

    def _lock(self) -> None:
        """The operating system's own lock, which a dead process cannot hold."""
        _allow_open_files(2**16)  # a sweep holds one for each run
        self._held = open(self.path / ".lock", "a+")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.seek(0)
            raise ValueError(
                f"--workdir={self.path} is being trained by {self._held.read().strip() or 'another process'}; "
                f"let it finish, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            warnings.warn(f"{self.path} is on a file system without locks: start no second run in it", stacklevel=2)
        self._held.truncate(0)
        self._held.write(f"process {os.getpid()} on {platform.node()}\n")
        self._held.flush()

    def config(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
          ValueError: if there is none, or it is not that of a run.
        """
        path = self.path / "config.json"
        if not path.exists():
            if runs := sorted((self.path / "runs").glob("*/config.json")):
                raise ValueError(
                    f"--workdir={self.path} is a sweep of {len(runs)} runs; give one of them, such as {runs[0].parent}"
                )
            raise ValueError(f"--workdir={self.path} holds no run (no config.json); give the folder of a trained run")
        config = read_json(path)
        if not checks.is_config(config):
            raise ValueError(f"{path} is not that of a run; restore it, or choose another --workdir")
        return config

    def settings(self) -> Settings:
        """The settings of config.json; those that it does not name, because they came later, at their defaults.

        Raises:
          ValueError: if there is none, or one that is not known here.
        """
        found = self.config()["settings"]
        try:
            return from_json(found)
        except ValueError as error:
            raise ValueError(f"{self.path / 'config.json'} is of another version or was changed: {error}") from None

    def is_of_this_code(self) -> bool:
        """Whether the code that trained it last is the one that runs now; true where that was not kept."""
        config, now = self.config(), circumstances.code()
        *_, last = config, *config.get("continued", [])
        return last.get("code", now) == now

    def go_on_by_this_code(self) -> None:
        """Writes down that from here on it is trained by the code that runs now."""
        config = self.config()
        config["continued"] = [*config.get("continued", []), circumstances.of_code()]
        write_json(self.path / "config.json", config)

    def result(self) -> dict[str, Any] | None:
        """The row of the finished run, None before; settings that it does not name, because they came later, at their
        defaults.

        Raises:
          ValueError: if it is not that of a run.
        """
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            return checks.result(read_json(path))
        except ValueError as error:
            raise ValueError(f"{path} {error}; restore it, or choose another --workdir") from None

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The rows of a .jsonl file; a half-written last line, the trace of a kill, is left out.

        Raises:
          ValueError: naming another line that is not a row.
        """
        path, rows = self.path / name, []
        *lines, unended = (path.read_bytes() if path.exists() else b"").split(b"\n")
        for number, line in enumerate([*lines, unended] if _is_json(unended) else lines, 1):
            try:
                rows.append(checks.row(line, name))
            except ValueError as error:
                raise ValueError(
                    f"{path}: line {number} {error}; restore the file, or choose another --workdir"
                ) from None
        return rows

    def seconds(self) -> list[float] | None:
        """Of training, at each row of metrics.jsonl; None where there is none, or they were not kept."""
        clock = {row["step"]: row["train_seconds"] for row in self.rows("timing.jsonl")}
        steps = [row["step"] for row in self.rows()]
        return [clock[step] for step in steps] if steps and set(steps) <= set(clock) else None

    def validation_bounds(self) -> dict[int, float]:
        """The ELBO of the validation split by epoch, nats; empty where there is no such split."""
        return {row["epoch"]: row["elbo_nats"] for row in self.rows() if row.get("split") == "validation"}

    def epoch_of(self, name: str) -> int | None:
        """The epoch of a checkpoint called "latest" (None: the newest that can be read), "best" or by its number.

        Raises:
          ValueError: if there is no such checkpoint.
        """
        found = checkpoint.steps(self.checkpoints)
        if name == "latest":
            return None
        if name == "best":
            epoch = checkpoint.best(found, self.validation_bounds())
            if epoch is None:
                raise ValueError(
                    f"--checkpoint=best is the best by the validation bound, and {self.path} was trained without a "
                    f"validation split; take --checkpoint=latest, or train with --validation_size"
                )
            return epoch
        if not name.isdecimal() or int(name) not in found:
            raise ValueError(
                f"--checkpoint={name} is not in {self.checkpoints}; take latest, best or one of "
                f"{', '.join(map(str, found)) or '(none)'}"
            )
        return int(name)

    def forget_after(self, last_epoch: int) -> None:
        """Drops what was written after `last_epoch`, so that a resumed run goes on from there."""
        checkpoint.drop_after(self.checkpoints, last_epoch)
        for name in ("metrics.jsonl", "timing.jsonl"):
            self._rewrite([row for row in self.rows(name) if row["epoch"] <= last_epoch], name)

    def set_checkpoints_aside(self) -> None:
        """Keeps checkpoints of which none could be read as they are, in a folder of their own, out of the way."""
        aside = self.path / "checkpoints.unreadable"
        shutil.rmtree(aside, ignore_errors=True)
        if self.checkpoints.exists():
            self.checkpoints.rename(aside)

    def append(self, row: dict[str, Any], name: str = "metrics.jsonl") -> None:
        """One more row, behind the last whole one."""
        path = self.path / name
        if not _ends_whole(path):
            self._rewrite(self.rows(name), name)
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def _rewrite(self, rows: list[dict[str, Any]], name: str) -> None:
        write_text(self.path / name, "".join(json.dumps(row) + "\n" for row in rows))


class Recorder:
    """A context that writes a run's evaluations and checkpoints while it is trained."""

    def __init__(self, folder: RunFolder, keep: int, tensorboard: bool):
        self.folder, self.keep, self.tensorboard = folder, keep, tensorboard
        self._told = (0, 0.0)

    def __enter__(self):
        self.stack = ExitStack()
        self.bounds = self.folder.validation_bounds()
        writer = checkpoint.writer(self.folder.checkpoints, self.keep, self.bounds)
        self._save, self.wait = self.stack.enter_context(writer)
        self.events = None
        if self.tensorboard:
            from tensorboardX import SummaryWriter

            self.events = self.stack.enter_context(SummaryWriter(str(self.folder.path / "tensorboard")))
        return self

    def __exit__(self, *exception):
        return self.stack.__exit__(*exception)

    def log(self, row: dict[str, Any], train_seconds: float) -> None:
        """One evaluation: its row, and when it was."""
        if row["split"] == "validation":
            self.bounds[row["epoch"]] = row["elbo_nats"]
        self.folder.append(row)
        self.tell_time(row["epoch"], row["step"], train_seconds)
        for name, value in row.items() if self.events else ():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self.events.add_scalar(name, value, row["step"])

    def tell_time(self, epoch: int, step: int, train_seconds: float) -> None:
        """When an evaluation or a checkpoint was, once."""
        if (step, train_seconds) != self._told:
            row = {"epoch": epoch, "step": step, "train_seconds": train_seconds}
            self.folder.append(row, "timing.jsonl")
            self._told = (step, train_seconds)

    def save(self, epoch: int, state: train.TrainState) -> None:
        """A checkpoint named by its epoch."""
        self._save(epoch, state)


class Silent:
    """A recorder that writes nothing: that of a process beside the first."""

    def __init__(self, folder: RunFolder):
        del folder

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def log(self, row: dict[str, Any], train_seconds: float) -> None:
        del row, train_seconds

    def tell_time(self, epoch: int, step: int, train_seconds: float) -> None:
        del epoch, step, train_seconds

    def save(self, epoch: int, state: train.TrainState) -> None:
        del epoch, state

    def wait(self) -> None:
        pass


def run_folders(workdir: str | Path, runs: list[Settings], swept: list[str]) -> list[RunFolder]:
    """Where each run lives: the workdir itself for a single run, workdir/runs/... for those of a sweep.

    A sweep's folders are known by their settings: a larger sweep in the same workdir finds them again, and so does one
    of a version that has more settings.

    Raises:
      ValueError: if a sweep is started in the workdir of a single run.
    """
    workdir = Path(workdir)
    if len(runs) == 1 and not (workdir / "runs").exists():
        return [RunFolder(workdir)]
    if (workdir / "config.json").exists():
        raise ValueError(f"--workdir={workdir} holds a single run; choose another folder for a sweep")

    known = {}
    for config in sorted((workdir / "runs").glob("*/config.json")):
        with contextlib.suppress(ValueError):  # of a version that had other settings
            known[from_json(RunFolder(config.parent).config()["settings"])] = config.parent

    def folder(run: Settings) -> RunFolder:
        settings = run.json()
        name = "_".join([f"{key}={_safe(settings[key])}" for key in swept] + [run.digest()])
        return RunFolder(known.get(run, workdir / "runs" / name))

    return [folder(run) for run in runs]


def all_runs(workdir: str | Path) -> list[RunFolder]:
    """Every run folder of a workdir, finished or not."""
    workdir = Path(workdir)
    if (workdir / "config.json").exists():
        return [RunFolder(workdir)]
    return [RunFolder(path.parent) for path in sorted(workdir.glob("runs/*/config.json"))]


def check_writable(workdir: str | Path, flag: str = "workdir") -> None:
    """Raises ValueError, before any work is lost, if nothing can be written to the folder that --`flag` names."""
    if not is_printable(str(workdir)):  # nor be named in a table or on a page
        raise ValueError(f"--{flag}={workdir} cannot be printed; choose another name")
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(b"\0" * 65536)
            file.flush()
    except OSError as error:
        raise ValueError(f"--{flag}={workdir} cannot be written ({error.strerror}); choose another folder") from None


def check_space(workdir: str | Path, needed: int) -> None:
    """Raises ValueError, before any work is lost, if the disk has fewer than `needed` bytes left."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise ValueError(
            f"--workdir={workdir} is on a disk with {free / 1e6:.1f} MB left, and checkpoints need {needed / 1e6:.1f}; "
            f"make room or choose another folder"
        )


@contextlib.contextmanager
def alone(workdir: str | Path) -> Iterator[None]:
    """A context in which one process of a workdir's is at a time; others wait."""
    with open(Path(workdir) / ".results.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


def _allow_open_files(number: int) -> None:
    """Raises this process's limit of open files towards `number`, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system may have a limit below its "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _ends_whole(path: Path) -> bool:
    """Whether the file ends with a line, or is empty or not there."""
    if not path.exists() or not path.stat().st_size:
        return True
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds.

    Raises:
      ValueError: if it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not valid JSON; restore it, or choose another --workdir") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no named values; restore it, or choose another --workdir")
    return content


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """All or nothing: whoever reads the file sees the old contents or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _config(settings: Settings, data: Dataset) -> dict[str, Any]:
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
        },
        **circumstances.of_now(),
    }


def _safe(value: Any) -> str:
    """A setting as part of a file name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in str(value))[-40:]
