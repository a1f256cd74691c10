"""Charts of the gradient along training, from the rows of metrics.jsonl.

With --measure_gradient a row has a column gradient/ESTIMATOR/GROUP/FIGURE for each measured estimator, group of
parameters and figure. With the estimator `auto` it has columns auto/CANDIDATE/steps, the number of steps so far in
which the candidate was in use, and auto/CANDIDATE/error, its last measured error.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.common.charts.chart import Axis, Chart, Series
from experiments.common.charts.styles import paper_label, styles

PREFIX = "gradient"
TITLES = {"variance": "variance", "snr": "signal-to-noise ratio", "bias": "bias along truth (%)"}

Row = dict[str, Any]
# For each label the name of a column and the rows of each seed.
Lines = dict[str, list[tuple[str, list[Row]]]]


class Column(NamedTuple):
    """A figure of the gradient of one estimator in one group of parameters."""

    estimator: str
    group: str
    figure: str

    @property
    def name(self) -> str:
        """The name of the column in metrics.jsonl."""
        return "/".join([PREFIX, *self])


def columns(rows: list[Row]) -> list[Column]:
    """The measured figures in these rows, without duplicates."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(f"{PREFIX}/"))
    return [Column(*name.split("/")[1:]) for name in names if name.count("/") == 3]


def groups(rows: list[Row]) -> list[str]:
    """The groups of parameters whose gradient was measured."""
    return list(dict.fromkeys(column.group for column in columns(rows)))


def gradient(runs: list[dict[str, Any]], group: str, figure: str) -> Chart:
    """A figure of the gradient in `group` against training steps, with a line for each setting and estimator.

    Runs with the same label are seeds of one setting, and their mean is drawn. The bias has an interval of two standard
    errors.

    Args:
      runs: Dicts with "label", which is empty if all runs have one setting, and "rows", the evaluations.
      figure: A key of `TITLES`.
    """
    lines: Lines = {}
    for run in runs:
        for column in columns(run["rows"]):
            if (column.group, column.figure) == (group, figure):
                lines.setdefault(_label(column.estimator, run["label"]), []).append((column.name, run["rows"]))
    return _chart(lines, f"{group}: {TITLES[figure]}", is_bias=figure == "bias")


def schedule(runs: list[dict[str, Any]]) -> Chart:
    """The share of the steps since the previous evaluation (%) in which `auto` used each candidate.

    Args:
      runs: As in `gradient`.
    """
    return _chart(_lines_of_auto(runs, "steps", _shares), "share of the steps (%)", scale="linear")


def errors(runs: list[dict[str, Any]]) -> Chart:
    """The error of each candidate of `auto` at its last measurement.

    Args:
      runs: As in `gradient`.
    """
    return _chart(_lines_of_auto(runs, "error", lambda rows, name: rows), "mean squared error × evaluations")


def _lines_of_auto(runs: list[dict[str, Any]], figure: str, convert: Callable) -> Lines:
    lines: Lines = {}
    for run in runs:
        names = dict.fromkeys(name for row in run["rows"] for name in row if re.fullmatch(f"auto/.*/{figure}", name))
        for name in names:
            label = _label(name.split("/")[1], run["label"])
            lines.setdefault(label, []).append((name, convert(run["rows"], name)))
    return lines


def _shares(rows: list[Row], name: str) -> list[Row]:
    """The increase of a count of steps from one evaluation to the next, in percent of all steps between them."""
    counted = [{"step": 0, name: 0}, *(row for row in rows if name in row)]
    pairs = [(before, row) for before, row in itertools.pairwise(counted) if row["step"] > before["step"]]
    share = lambda before, row: 100 * (row[name] - before[name]) / (row["step"] - before["step"])
    return [{"step": row["step"], name: share(before, row)} for before, row in pairs]


def _chart(lines: Lines, title: str, scale: str = "log", is_bias: bool = False) -> Chart:
    series = []
    for label, style in styles(lines).items():
        if points := sorted(_means(lines[label], is_bias, positive=scale == "log" and not is_bias)):
            x, y, error = np.array(points).T
            interval = (y - 2 * error, y + 2 * error) if is_bias else (None, None)
            series.append(Series(paper_label(label), style, x, y, *interval))
    return Chart(series, Axis("training step"), Axis(title, "linear" if is_bias else scale))


def _label(estimator: str, setting: str) -> str:
    parts = setting.split(", ")
    own = estimator in parts or f"estimator={estimator}" in parts
    return setting if own else ", ".join(filter(None, [estimator, setting and f"run of {setting}"]))


def _means(seeds: list[tuple[str, list[Row]]], is_bias: bool, positive: bool) -> Iterator[tuple[float, float, float]]:
    """For each step the mean over the seeds that were measured there, and its standard error."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for name, rows in seeds:
        for row in rows:
            pair = row.get(name), row.get(f"{name}_stderr", 0.0)
            if all(isinstance(value, int | float) and math.isfinite(value) for value in pair):
                by_step.setdefault(row["step"], []).append(pair)
    scale = 100 if is_bias else 1
    for step, pairs in by_step.items():
        values, errors = np.array(pairs, dtype=float).T
        if values.mean() > 0 or not positive:
            yield step, scale * values.mean(), scale * math.hypot(*errors) / len(errors)
