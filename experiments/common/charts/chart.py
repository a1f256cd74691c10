"""The types that describe a chart: series of points, guides that help to read the points, and two axes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Series(NamedTuple):
    """Points that share a name and a look.

    Attributes:
      label: The name of the series in the legend.
      style: The number of the series' colour, dash and marker. Series with the same number look alike.
      x: The horizontal coordinates, `[points]`.
      y: The vertical coordinates, `[points]`. NaN makes a gap in the line.
      low: The lower ends of the intervals of the measured coordinate, `[points]`, or None. The measured coordinate is
        y, or x in a chart whose vertical axis has names.
      high: The upper ends of these intervals.
      faint: Whether the series is only the background of another series, such as one seed behind a mean.
      hollow: Whether the markers are hollow.
      ring: Whether the points are rings around points of other series.
      group: The name of a group of series that a renderer may draw separately.
      remark: A remark about the whole series, for renderers that show it on demand.
      details: Further numbers about each point, for renderers that show them on demand.
      hidden: The number of earlier points of the chart that each point would hide, `[points]`, or None. A point that
        would hide n points is drawn as the ring number n around them.
      remarks: A remark about each point or "", for renderers that show it on demand; empty for none.
    """

    label: str
    style: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    faint: bool = False
    hollow: bool = False
    ring: bool = False
    group: str = ""
    remark: str = ""
    details: tuple[Any, ...] = ()
    hidden: np.ndarray | None = None
    remarks: tuple[str, ...] = ()


class Guide(NamedTuple):
    """A line that helps to read the points.

    Attributes:
      kind: "equal elbo", "equal product", "front", "slope" or "critical". A renderer has a style for each kind.
      x: The horizontal coordinates, `[points]`.
      y: The vertical coordinates, `[points]`.
      label: The text beside the line.
    """

    kind: str
    x: np.ndarray
    y: np.ndarray
    label: str = ""


class Edge(NamedTuple):
    """A text at the left or the right edge of a chart, about values that the axis does not show.

    Attributes:
      y: The vertical coordinate.
      text: The values.
      right: Whether the text is at the right edge.
    """

    y: float
    text: str
    right: bool


class Axis(NamedTuple):
    """The horizontal or the vertical axis of a chart.

    Attributes:
      title: The quantity and its unit.
      scale: "linear", "log" or "symlog", which is linear up to 10 and logarithmic beyond.
      limits: The least and the largest value on the axis, or None for limits that the renderer chooses.
      ticks: The values that are written at the axis; if empty, the renderer chooses them.
      names: The names of the values 0, 1, 2, ..., for an axis of names.
    """

    title: str
    scale: str = "linear"
    limits: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()


class Chart(NamedTuple):
    """Series on two axes. A chart without series has nothing to show.

    Attributes:
      note: A remark in the chart; empty for none.
      edges: Texts about values outside of the horizontal axis.
    """

    series: list[Series]
    x: Axis
    y: Axis
    guides: tuple[Guide, ...] = ()
    note: str = ""
    edges: tuple[Edge, ...] = ()


def column(rows: Iterable[dict[str, Any]], key: str) -> np.ndarray:
    """The values of a key as floats, one for each row. Absent values and None become NaN."""
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)


def by_label(items: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The items of each label, in the order in which the labels appear."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(item["label"], []).append(item)
    return groups


def limits(lines: Iterable[np.ndarray], robust: bool = False) -> tuple[float, float] | None:
    """The limits of an axis that shows lines of values, or None if no value is finite.

    Args:
      robust: Whether the limits follow only the last 80 % of each line, without far outliers. A learning curve may
        start far away from its end.
    """
    lines = [line[np.isfinite(line)] for line in lines]
    values = np.concatenate([*lines, []])
    if not values.size:
        return None
    low, high = values.min(), values.max()
    if robust:
        late = np.concatenate([line[len(line) // 5 + (len(line) > 2) :] for line in lines])
        lower, upper = np.quantile(late, (0.25, 0.75))
        inside = late[(late >= lower - 3 * (upper - lower)) & (late <= upper + 3 * (upper - lower))]
        slack = 0.5 * np.ptp(inside)  # the part of the start that stays visible
        low, high = max(low, inside.min() - slack), min(high, inside.max() + slack)
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
