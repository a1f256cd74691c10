"""The parts of a chart: series of points, guides that help to read them, and two axes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Series(NamedTuple):
    """Points that share a name.

    Attributes:
      label: Name of the series in the legend.
      style: Number of the colour, dash and marker. Series of one number look alike.
      x: Horizontal coordinates, `[points]`.
      y: Vertical coordinates, `[points]`. NaN is a gap in the line.
      low: Lower ends of the intervals of the measured coordinate, `[points]`, or None. The measured coordinate is y, or
        x in a chart whose vertical axis has names.
      high: Upper ends of these intervals.
      faint: Whether the series is only the background of another one, such as one seed behind a mean.
      hollow: Whether markers are hollow.
      group: Name of a group of series that a renderer may draw apart.
      remark: Further words about the whole series, for renderers that show them on demand.
      details: Further numbers about each point, for renderers that show them on demand.
    """

    label: str
    style: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    faint: bool = False
    hollow: bool = False
    group: str = ""
    remark: str = ""
    details: tuple[Any, ...] = ()


class Guide(NamedTuple):
    """A line that helps to read the points.

    Attributes:
      kind: "equal elbo", "equal product", "front", "slope" or "critical"; the renderer has a style for each.
      x: Horizontal coordinates, `[points]`.
      y: Vertical coordinates, `[points]`.
      label: Text beside the line.
    """

    kind: str
    x: np.ndarray
    y: np.ndarray
    label: str = ""


class Axis(NamedTuple):
    """An axis.

    Attributes:
      title: Quantity and unit.
      scale: "linear", "log" or "symlog", which is linear up to 10 and logarithmic beyond.
      limits: Least and largest value on the axis; None leaves them to the renderer.
      ticks: Values that are written at the axis; none leaves them to the renderer.
      names: Names of the values 0, 1, 2, ..., for an axis of names.
    """

    title: str
    scale: str = "linear"
    limits: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()


class Chart(NamedTuple):
    """Series on two axes. A chart without series has nothing to show.

    Attributes:
      note: A remark that stands in the chart, or nothing.
    """

    series: list[Series]
    x: Axis
    y: Axis
    guides: tuple[Guide, ...] = ()
    note: str = ""


def column(rows: Iterable[dict[str, Any]], key: str) -> np.ndarray:
    """One float for each row, NaN where the key is absent or None."""
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)


def by_label(items: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The items of each label, in the order in which the labels appear."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(item["label"], []).append(item)
    return groups


def limits(lines: Iterable[np.ndarray], robust: bool = False) -> tuple[float, float] | None:
    """The limits of an axis that shows lines of values; None where no value is finite.

    If `robust`, the limits follow the last 80 % of each line without far outliers, since a curve may start far away.
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
