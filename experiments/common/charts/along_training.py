"""Charts of the gradient along training, from the rows that --measure_gradient adds to metrics.jsonl.

A row has a column gradient/ESTIMATOR/GROUP/FIGURE for each measured estimator, group of parameters and figure.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.common.charts.chart import Axis, Chart, Series
from experiments.common.charts.styles import paper_label, styles

PREFIX = "gradient"
TITLES = {"variance": "variance", "snr": "signal-to-noise ratio", "bias": "bias along truth (%)"}

Row = dict[str, Any]


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
    lines: dict[str, list[tuple[str, list[Row]]]] = {}
    for run in runs:
        for column in columns(run["rows"]):
            if (column.group, column.figure) == (group, figure):
                lines.setdefault(_label(column.estimator, run["label"]), []).append((column.name, run["rows"]))
    series = []
    for label, style in styles(lines).items():
        if points := sorted(_means(lines[label], figure)):
            x, y, error = np.array(points).T
            interval = (y - 2 * error, y + 2 * error) if figure == "bias" else (None, None)
            series.append(Series(paper_label(label), style, x, y, *interval))
    scale = "linear" if figure == "bias" else "log"
    return Chart(series, Axis("training step"), Axis(f"{group}: {TITLES[figure]}", scale))


def _label(estimator: str, setting: str) -> str:
    parts = setting.split(", ")
    own = estimator in parts or f"estimator={estimator}" in parts
    return setting if own else ", ".join(filter(None, [estimator, setting and f"run of {setting}"]))


def _means(seeds: list[tuple[str, list[Row]]], figure: str) -> Iterator[tuple[float, float, float]]:
    """For each step the mean over the seeds that were measured there, and its standard error."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for name, rows in seeds:
        for row in rows:
            pair = row.get(name), row.get(f"{name}_stderr", 0.0)
            if all(isinstance(value, int | float) and math.isfinite(value) for value in pair):
                by_step.setdefault(row["step"], []).append(pair)
    scale = 100 if figure == "bias" else 1
    for step, pairs in by_step.items():
        values, errors = np.array(pairs, dtype=float).T
        if figure == "bias" or values.mean() > 0:
            yield step, scale * values.mean(), scale * math.hypot(*errors) / len(errors)
