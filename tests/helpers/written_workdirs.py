"""Workdirs with the files that the commands would leave, written without training."""

import base64
import json
from pathlib import Path

from experiments.common.settings import Settings

# One pixel, the smallest PNG there is.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
VERSIONS = {"python": "3.11", "jax": "0.10.2"}


def write_run(folder: Path, run: Settings, shift: float = 0.0, finished: bool = True, picture: bytes = PNG) -> None:
    """A run as experiments.train leaves it. Its test figures are worse by `shift` nats."""
    (folder / "figures").mkdir(parents=True)
    data = {"name": run.dataset, "images": {"train": 10}, "checksum": "0" * 64}
    config = {
        "settings": run.json(),
        "data": data,
        "versions": VERSIONS,
        "device": "1 x cpu",
        "platform": "cpu, x86_64, 2 cores",
    }
    (folder / "config.json").write_text(json.dumps(config | {"git_commit": "abc"}))
    rows = [
        {"epoch": e, "step": 23 * e, "examples": 1472 * e, "split": "test", "elbo_nats": -25.0 - shift + 3 * e / 100}
        for e in (1, 10, 100)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    times = [{"epoch": row["epoch"], "step": row["step"], "train_seconds": 0.01 * row["epoch"]} for row in rows]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    if finished:
        figures = {"test_nll_nats": 22.123456 + shift, "test_elbo_nats": -23.1 - shift, "active_units": 8}
        figures |= {"test_rate_nats": 4.5 + shift, "test_distortion_nats": 18.6}
        if run.binarization == "none":
            figures["test_bits_per_dim"] = 4.321 + shift
        if run.validation_size:
            figures["validation_elbo_nats"] = -24.1 - shift
        row = run.json() | {"status": "done", "step": 2300, **figures}
        (folder / "result.json").write_text(json.dumps(row))
        (folder / "figures/reconstructions.png").write_bytes(picture)


def write_sweep(folder: Path, points: list[tuple[dict, float]], **options) -> Path:
    """A sweep with a run for each pair of settings and shift."""
    for i, (point, shift) in enumerate(points):
        write_run(folder / "runs" / str(i), Settings(**point), shift, **options)
    return folder


def write_curve(folder: Path, seed: int, elbo: dict[int, float], status: str | None, **settings) -> None:
    """A run with these ELBOs at these epochs."""
    write_run(folder, Settings(seed=seed, **settings), finished=status == "done")
    rows = [
        {"epoch": epoch, "step": 23 * epoch, "examples": 1472 * epoch, "split": "test", "elbo_nats": value}
        for epoch, value in elbo.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    times = [{"epoch": row["epoch"], "step": row["step"], "train_seconds": seed + row["epoch"]} for row in rows]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    if status == "diverged":
        (folder / "result.json").write_text(
            json.dumps(Settings(seed=seed, **settings).json() | {"status": status, "step": 24})
        )
