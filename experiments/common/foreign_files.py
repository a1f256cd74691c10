"""Checks of files that others may have written. A workdir that this project cannot have written is refused.

Therefore a table, a page or a terminal shows only names and values that a setting can have. No page shows a file from
outside of the workdir, and no command adds rows to such a file or empties it.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.settings import FIELDS as SETTINGS

# The files and folders of a workdir that a page may show, or that commands change in place.
NAMES = (
    "config.json",
    "runs.json",
    "metrics.jsonl",
    "timing.jsonl",
    "evaluations.jsonl",
    "results.csv",
    "results.md",
    "results.tex",
    "verdict.csv",
    "verdict.md",
    "verdict.tex",
    "report.html",
    "pairs.csv",
    "layers.csv",
    "matrix.csv",
    "curves.csv",
    "figures",
    "programs",
    ".lock",
    ".results.lock",
    ".figures.lock",
)
# Folders that may be links, for example to a scratch disk. No page shows what is in them.
MAY_BE_LINKS = ("checkpoints", "checkpoints.unreadable", "store", "tensorboard", "profile", "slurm")

# The columns of a row that hold text, besides settings, with the pattern of their values.
TEXT = {
    "split": "train|validation|test",
    "status": "done|diverged",
    "active_units_by_layer": r"\d+(\+\d+)+",
    "git_commit": r"([0-9a-f]{40}\+?)?",
    "versions": r"[\w.+, -]*",
    "ais_start": "prior|q",
}
# The names of figures. Those of --measure_gradient are gradient/ESTIMATOR/GROUP/FIGURE, and those of the estimator
# `auto` are auto/CANDIDATE/FIGURE.
NAME = r"[a-z][a-z0-9_]*|gradient/[\w:=.+-]+/\w+/[a-z_]+|auto/[\w:=.+-]+/[a-z_]+"
# The columns that every row of a file has.
ROWS = {
    "metrics.jsonl": ("run", "epoch", "step", "examples", "split", "elbo_nats"),
    "timing.jsonl": ("epoch", "step", "train_seconds"),
    "evaluations.jsonl": ("run", "epoch", "eval_samples", "test_nll_nats"),
}
# The figures of every result of a run that did not diverge.
FIGURES = ("test_nll_nats", "test_elbo_nats", "test_rate_nats", "test_distortion_nats")
# The figures of each group of parameters in a comparison of estimators, behind the group's name.
LABORATORY = ("biased", "bias", "bias_stderr", "max_abs_z", "critical_z")
LABORATORY += tuple(f"{figure}{end}" for figure in ("variance", "snr") for end in ("", "_low", "_high"))


def refuse_links(folder: str | Path) -> None:
    """Refuses symbolic links among the files of `folder` that a page may show, or that commands change in place.

    The folder itself and the folders of `MAY_BE_LINKS` may be links. A command needs this check only if it copies files
    into a page, adds rows to files or holds locks: all other files are replaced in one step, which leaves the file
    behind a link as it is.

    Raises:
      ValueError: If there is such a link; the sentence names it.
    """
    for name in NAMES:
        path = Path(folder) / name
        for link in [path] if path.is_symlink() else _links(path):
            raise ValueError(
                f"{link} is a symbolic link, so files outside of the folder could be read or overwritten; put the files"
                " themselves there (the whole folder may be a link)"
            )


def _links(folder: Path) -> Iterator[str]:
    """The links below a folder."""
    if not folder.is_dir():
        return
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:  # another process may delete meanwhile
        for entry in entries:
            if entry.name in MAY_BE_LINKS and folder.name != "programs":  # a program may have any name
                continue
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir():
                yield from _links(Path(entry.path))


def is_program_record(record: dict[str, Any]) -> bool:
    """Whether the content can be that of a runs.json. `settings.from_json` checks the settings in it."""
    if not all(isinstance(record.get(part), dict) for part in ("settings", "data", "versions")):
        return False
    lists = [record.get("runs"), record.get("continued", [])]
    if not all(isinstance(one, list) and all(isinstance(element, dict) for element in one) for one in lists):
        return False
    runs = record["runs"]
    if not runs or not all(
        isinstance(run.get("settings"), dict) and isinstance(run.get("result", {}), dict) for run in runs
    ):
        return False
    if not all(_is_code(code) for code in [record, *record.get("continued", [])]):
        return False
    data = record["data"]
    texts = [data.get("name"), data.get("checksum"), data.get("files_checksum", ""), record.get("fallback", "")]
    return isinstance(data.get("images"), dict) and all(isinstance(text, str) for text in texts)


def _is_code(code: dict[str, Any]) -> bool:
    """Whether the content can be that of `provenance.describe_code`."""
    versions, imports = code.get("versions", {}), code.get("imports", {})
    is_text = lambda value: isinstance(value, str) and value.isprintable()
    return isinstance(versions, dict) and isinstance(imports, dict) and all(map(is_text, versions.values()))


def parse_row(line: bytes, name: str) -> dict[str, Any]:
    """The row in a line of the file `name`.

    Raises:
      ValueError: If the line is not a row; the sentence is a predicate ("is not a row").
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not set(ROWS[name]) <= set(row):
        raise ValueError("is not a row")
    if not all(type(row.get(number, 0)) is int for number in ("run", "epoch")):
        raise ValueError("is not a row")
    _check_figures(row)
    return row


def parse_result(content: dict[str, Any]) -> dict[str, Any]:
    """The result of a run in a runs.json: its status, its last step and its figures.

    Raises:
      ValueError: If the content is not a result; the sentence is a predicate.
    """
    complete = content.get("status") != "done" or set(FIGURES) <= set(content)
    if not {"status", "step"} <= set(content) or not complete or set(content) & set(SETTINGS):
        raise ValueError("does not hold the results of finished runs")
    _check_figures(content)
    return content


def is_laboratory(config: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether the contents can be those of config.json and results.csv of `experiments.compare_estimators`."""
    columns = list(rows[0])
    groups = [name.removesuffix("_verdict") for name in columns if name.endswith("_verdict")]
    text = {"problem", "estimator", "truth", *(f"{group}_verdict" for group in groups)}
    text |= {f"{group}_best_by" for group in groups} & set(columns)  # older results have no such column
    numbers = {"num_samples", "declared_biased", "flops", "seconds"}
    numbers |= {f"{group}_{figure}" for group in groups for figure in LABORATORY}
    ordered = columns[0] == "problem" and "estimator" in columns[1:3]  # a swept parameter may stand between them
    return ordered and _is_measurement(config, "draws", "confidence") and _is_table(rows, text, numbers)


def is_toy(config: dict[str, Any], rows: list[dict[str, Any]], curves: list[dict[str, Any]]) -> bool:
    """Whether the contents can be those of config.json, results.csv and curves.csv of `experiments.toy_bernoulli`."""
    return (
        _is_measurement(config, "steps", "seeds", "num_samples")
        and isinstance(config["settings"].get("toy"), str)
        and _is_table(rows, {"point", "estimator", "family"}, {"final_loss", "final_loss_stderr", "first_variance"})
        and _is_table(curves, {"point", "estimator"}, {"seed", "step", "loss", "variance"})
    )


def _is_measurement(config: dict[str, Any], *numbers: str) -> bool:
    """Whether the configuration has a command, versions and settings, of which `numbers` are numbers."""
    kinds = {"command": str, "versions": dict, "settings": dict}
    complete = all(isinstance(config.get(name), kind) for name, kind in kinds.items())
    return complete and all(_is_number(config["settings"].get(name)) for name in numbers)


def _is_table(rows: list[dict[str, Any]], text: set[str], numbers: set[str]) -> bool:
    """Whether the table has these columns, every column but `text` holds numbers or truth values, and every column's
    name is made of plain words."""
    return (
        text | numbers <= set(rows[0])
        and all(re.fullmatch(r"\w[\w .+-]*", name) for name in rows[0])
        and all(isinstance(row[name], str) for row in rows for name in text)
        and all(_is_number(v) or isinstance(v, bool) for row in rows for n, v in row.items() if n not in text)
    )


def _check_figures(row: dict[str, Any]) -> None:
    for name, value in row.items():
        allowed = isinstance(value, str) and re.fullmatch(TEXT[name], value) if name in TEXT else _is_number(value)
        if not allowed or not re.fullmatch(NAME, name):
            raise ValueError(f"holds a value that is not a figure ({name!r})")


def _is_number(value: Any) -> bool:
    """Whether the value is a float, or an integer that fits into 64 bits."""
    return isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
