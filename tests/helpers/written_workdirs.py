"""Workdirs with the files that the commands would leave, written without training."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import build, foreign_files, program_folder, program_state, settings, tables
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from vae import checkpoint
from vae.data import Dataset

# One pixel, the smallest PNG there is.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
ENVIRONMENT = {
    "versions": {"python": "3.11", "jax": "0.10.2"},
    "device": "1 x cpu",
    "platform": "cpu, x86_64, 2 cores",
    "git_commit": "abc",
}
EPOCHS = (1, 10, 100)
# The provenance of a measurement.
MEASURED = {"device": "1 x cpu", "platform": "cpu, x86_64, 2 cores", "git_commit": "0123456789+", "seconds": 90.0}


class Written(NamedTuple):
    """A run to write.

    Attributes:
      settings: The settings of the run.
      shift: Its test figures are worse by so many nats.
      status: "done", "diverged", or None if the run is not finished.
      elbo: The ELBO after each evaluated epoch; None for a curve that rises a little.
    """

    settings: Settings
    shift: float = 0.0
    status: str | None = "done"
    elbo: dict[int, float] | None = None


def write_run(folder: Path, run: Settings, shift: float = 0.0, finished: bool = True, picture: bytes = PNG) -> None:
    """The workdir of a single run, as experiments.train leaves it."""
    write_workdir(folder, [Written(run, shift, "done" if finished else None)], picture)


def write_sweep(folder: Path, points: list[tuple[dict, float]], finished: bool = True, picture: bytes = PNG) -> Path:
    """The workdir of a sweep with a run for each pair of settings and shift."""
    runs = [Written(Settings(**point), shift, "done" if finished else None) for point, shift in points]
    return write_workdir(folder, runs, picture, sweep=True)


def write_workdir(folder: Path, runs: list[Written], picture: bytes = PNG, sweep: bool = False) -> Path:
    """The workdir of these runs. Runs that differ only in numbers are one program.

    Args:
      sweep: Whether a single run is also written as the workdir of a sweep.
    """
    if len(runs) == 1 and not sweep:
        write_program(folder, runs, picture)
    for i, members in enumerate(settings.programs([run.settings for run in runs]) if len(runs) > 1 or sweep else ()):
        write_program(folder / f"programs/{i}", [run for run in runs if run.settings in members], picture)
    config = {"command": "python -m experiments.train", "settings": {}, "data": {}} | ENVIRONMENT
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_program(path: Path, runs: list[Written], picture: bytes = PNG) -> ProgramFolder:
    """The folder of a program. Its checkpoints are not written."""
    path.mkdir(parents=True, exist_ok=True)
    images = np.zeros((10, 8, 8, 1), np.uint8)
    data = Dataset(runs[0].settings.dataset, images, images[:0], images, levels=2, checksum="0" * 64)
    record = program_folder.describe([run.settings for run in runs], data) | ENVIRONMENT
    record |= {"runs": [one | _result(run) for one, run in zip(record["runs"], runs, strict=True)]}
    (path / "runs.json").write_text(json.dumps(record))
    rows = [row for i, run in enumerate(runs) for row in _rows(i, run)]
    write_rows(path / "metrics.jsonl", sorted(rows, key=lambda row: (row["epoch"], row["run"])))
    steps = {row["epoch"]: row["step"] for row in rows}
    times = [{"epoch": epoch, "step": steps[epoch], "train_seconds": 0.01 * epoch} for epoch in sorted(steps)]
    write_rows(path / "timing.jsonl", times)
    folder = ProgramFolder(path)
    for i, run in enumerate(runs):
        if run.status == "done":
            folder.figures()[i].mkdir(parents=True, exist_ok=True)
            (folder.figures()[i] / "reconstructions.png").write_bytes(picture)
    return folder


def write_checkpoints(folder: ProgramFolder, epochs: tuple[int, ...], best_epochs: tuple[int, ...] = ()) -> None:
    """Checkpoints of a program on its data set, with random parameters.

    Args:
      epochs: The epochs after which checkpoints were written.
      best_epochs: The epoch of each run's best state; empty if the data have no validation split.
    """
    runs = folder.runs()
    data = build.load_trained(runs[0], None)
    record = folder.record() | {"data": program_folder.describe_data(data, None)}
    (folder.path / "runs.json").write_text(json.dumps(record))
    functions = build.functions(runs[0], data)
    shape = program_state.shape_of(functions, len(runs), bool(best_epochs)).without_optimizer()
    rng = np.random.default_rng(0)
    diverged = [result and result["status"] == "diverged" for result in folder.results()]
    failed_step = np.array([24 if failed else 0 for failed in diverged], np.int32)
    steps = lambda epochs: np.array(epochs, np.int32) * functions.steps_per_epoch
    with checkpoint.writer(folder.checkpoints, keep=len(epochs)) as (save, _):
        for epoch in epochs:
            state = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shape)
            state = state._replace(state=state.state._replace(step=steps([epoch] * len(runs))), failed_step=failed_step)
            if best_epochs:
                best = state.best.state._replace(step=steps(best_epochs))
                state = state._replace(best=state.best._replace(state=best))
            save(epoch, state)


def write_measurement(folder: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The config.json and the results.csv of a measurement with these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    config = MEASURED | {"settings": settings, "command": "python", "versions": {}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.csv").write_text(tables.to_csv(rows))


def write_laboratory(folder: Path, group: str, rows: list[dict[str, Any]]) -> None:
    """A result of the laboratory with one group of parameters. Figures that are not given are 1."""
    others = {"declared_biased": False, "truth": "exact", "flops": 1, "seconds": 1, f"{group}_verdict": "best"}
    others |= {f"{group}_{figure}": 1 for figure in foreign_files.LABORATORY}
    rows = [row | others | row for row in rows]
    write_measurement(folder, {"draws": 100, "confidence": 0.95}, rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A .jsonl file with these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_result(program: Path, number: int, **figures: Any) -> None:
    """Changes figures in the result of a run in a program's runs.json; None deletes a figure."""
    record = json.loads((program / "runs.json").read_text())
    result = record["runs"][number].setdefault("result", {})
    result |= figures
    record["runs"][number]["result"] = {name: value for name, value in result.items() if value is not None}
    (program / "runs.json").write_text(json.dumps(record))


def forget_results(program: Path) -> None:
    """Deletes the results of all runs, as if the training was stopped before it ended."""
    record = json.loads((program / "runs.json").read_text())
    record["runs"] = [{"settings": run["settings"]} for run in record["runs"]]
    (program / "runs.json").write_text(json.dumps(record))


def result_rows(workdir: Path) -> list[dict[str, Any]]:
    """The results of all runs in the files runs.json of a workdir, each with the settings of its run."""
    rows = []
    for path in sorted([*workdir.glob("runs.json"), *workdir.glob("programs/*/runs.json")]):
        record = json.loads(path.read_text())
        rows += [record["settings"] | run["settings"] | run["result"] for run in record["runs"] if "result" in run]
    return rows


def _result(run: Written) -> dict[str, Any]:
    if run.status is None:
        return {}
    if run.status == "diverged":
        return {"result": {"status": "diverged", "step": 24}}
    figures = {"test_nll_nats": 22.123456 + run.shift, "test_elbo_nats": -23.1 - run.shift, "active_units": 8}
    figures |= {"test_rate_nats": 4.5 + run.shift, "test_distortion_nats": 18.6}
    if run.settings.binarization == "none":
        figures["test_bits_per_dim"] = 4.321 + run.shift
    if run.settings.validation_size:
        figures["validation_elbo_nats"] = -24.1 - run.shift
    return {"result": {"status": "done", "step": 2300, **figures}}


def _rows(number: int, run: Written) -> list[dict[str, Any]]:
    curve = {epoch: -25.0 - run.shift + 3 * epoch / 100 for epoch in EPOCHS} if run.elbo is None else run.elbo
    return [
        {"run": number, "epoch": epoch, "step": 23 * epoch, "examples": 1472 * epoch, "split": "test"}
        | {"elbo_nats": value}
        for epoch, value in curve.items()
    ]
