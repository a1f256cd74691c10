"""A workdir may come from anybody: its files are read as data, and refused where they are not what ours hold.

So no text of theirs comes into a table, a page or a terminal but names and values that a setting can have, and nothing
outside of the folder is written over through a link in it.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.settings import FIELDS, from_json

# What entry points make in a workdir.
NAMES = (
    "config.json",
    "metrics.jsonl",
    "timing.jsonl",
    "result.json",
    "evaluations.jsonl",
    "results.csv",
    "results.md",
)
NAMES += ("checkpoints", "checkpoints.unreadable", "figures", "tensorboard", "profile", "runs", "kept", "slurm")
NAMES += (".lock", ".results.lock")

# What is text in a row, beside settings.
TEXT = {"split": "train|validation|test", "status": "done|diverged", "active_units_by_layer": r"\d+(\+\d+)+"}
TEXT |= {"git_commit": r"([0-9a-f]{40}\+?)?", "versions": r"[\w.+, -]*"}
# What the rows of a file have at the least, and a result of a run that did not diverge.
ROWS = {
    "metrics.jsonl": ("epoch", "step", "examples", "split", "elbo_nats"),
    "timing.jsonl": ("epoch", "step", "train_seconds"),
    "evaluations.jsonl": ("epoch", "eval_samples", "test_nll_nats"),
}
FIGURES = ("test_nll_nats", "test_elbo_nats", "test_rate_nats", "test_distortion_nats")
LABORATORY = ("biased", "bias", "bias_stderr", "max_abs_z", "critical_z")
LABORATORY += tuple(f"{figure}{end}" for figure in ("variance", "snr") for end in ("", "_low", "_high"))


def refuse_links(folder: str | Path) -> None:
    """Raises ValueError if anything of ours in `folder` is a symbolic link; the folder itself may be one."""
    for name in NAMES:
        path = Path(folder) / name
        for link in [path] if path.is_symlink() else _links(path):
            raise ValueError(
                f"{link} is a symbolic link, and what it leads to might be read or written over; put the files"
                " themselves there (the whole folder may be a link)"
            )


def _links(folder: Path) -> Iterator[str]:
    """Submitit links its jobs' files to each other, and a checkpoint is removed without following links."""
    if not folder.is_dir() or folder.name == "slurm":
        return
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:  # a neighbour may tidy up meanwhile
        for entry in entries:
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir() and folder.name != "checkpoints":
                yield from _links(Path(entry.path))


def is_config(config: dict[str, Any]) -> bool:
    """Whether it may be that of a run; its settings are for `settings.from_json` to check."""
    if not all(isinstance(config.get(part), dict) for part in ("settings", "data", "versions")):
        return False
    continued = config.get("continued", [])
    if not isinstance(continued, list) or not all(isinstance(one, dict) for one in continued):
        return False
    data = config["data"]
    return isinstance(data.get("images"), dict) and all(isinstance(data.get(n), str) for n in ("name", "checksum"))


def row(line: bytes, name: str) -> dict[str, Any]:
    """The row that a line of the file `name` is.

    Raises:
      ValueError: what is wrong with it.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not set(ROWS[name]) <= set(found) or not isinstance(found["epoch"], int):
        raise ValueError("is not a row")
    _check_figures(found)
    return found


def result(content: dict[str, Any]) -> dict[str, Any]:
    """A result.json with all settings, in their own types.

    Raises:
      ValueError: what is wrong with it.
    """
    settings = {name: value for name, value in content.items() if name in FIELDS}
    figures = {name: value for name, value in content.items() if name not in FIELDS}
    if not {"status", "step"} <= set(figures) or figures["status"] == "done" and not set(FIGURES) <= set(figures):
        raise ValueError("is not that of a finished run")
    _check_figures(figures)
    return from_json(settings).json() | figures


def is_laboratory(config: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether these may be config.json and results.csv of `experiments.compare_estimators`."""
    columns = list(rows[0])
    groups = [name.removesuffix("_verdict") for name in columns if name.endswith("_verdict")]
    text = {"problem", "estimator", "truth", *(f"{group}_verdict" for group in groups)}
    numbers = {"num_samples", "declared_biased", "flops", "seconds"}
    numbers |= {f"{group}_{figure}" for group in groups for figure in LABORATORY}
    ordered = columns[0] == "problem" and "estimator" in columns[1:3]  # between them, what points of a sweep differ in
    return ordered and _made(config, "draws", "confidence") and _is_table(rows, text, numbers)


def is_toy(config: dict[str, Any], rows: list[dict[str, Any]], curves: list[dict[str, Any]]) -> bool:
    """Whether these may be config.json, results.csv and curves.csv of `experiments.toy_bernoulli`."""
    return (
        _made(config, "steps", "seeds", "num_samples")
        and isinstance(config["settings"].get("toy"), str)
        and _is_table(rows, {"point", "estimator", "family"}, {"final_loss", "final_loss_stderr", "first_variance"})
        and _is_table(curves, {"point", "estimator"}, {"seed", "step", "loss", "variance"})
    )


def _made(config: dict[str, Any], *numbers: str) -> bool:
    """Whether it says by what command, from what versions, and with these settings."""
    kinds = {"command": str, "versions": dict, "settings": dict}
    known = all(isinstance(config.get(name), kind) for name, kind in kinds.items())
    return known and all(_is_number(config["settings"].get(name)) for name in numbers)


def _is_table(rows: list[dict[str, Any]], text: set[str], numbers: set[str]) -> bool:
    """Whether these columns are there, all others are numbers or truth values as well, and each name is plain words."""
    return (
        text | numbers <= set(rows[0])
        and all(re.fullmatch(r"\w[\w .+-]*", name) for name in rows[0])
        and all(isinstance(row[name], str) for row in rows for name in text)
        and all(_is_number(v) or isinstance(v, bool) for row in rows for n, v in row.items() if n not in text)
    )


def _check_figures(row: dict[str, Any]) -> None:
    for name, value in row.items():
        known = re.fullmatch(TEXT[name], str(value)) if name in TEXT else _is_number(value)
        if not known or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"holds what is no figure ({name!r})")


def _is_number(value: Any) -> bool:
    """Whether it is one that fits into 64 bits."""
    return isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
