"""Labels beside the points of a panel, with thin lines to the points where there is no room beside them."""

import itertools
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes

from experiments.common.charts import Chart, Series
from experiments.common.plots.style import GREY, look

# Points: the size of the labels of points, and half the size of a marker with some room.
LABEL_SIZE = 6.5
MARK = 3.5
LINE_SPACING = 1.15
# Points: half the width of a line with some room.
LINE = 0.7
# Points: the distance between places where a label is tried, the distance up to which a label is beside its marker, and
# the least distance between a label and the frame of the axes.
STEP = 4.0
BESIDE = 2 * MARK
EDGE = 3.0
# The largest number of places to which a line is tried.
TRIED = 200


class Box(NamedTuple):
    """The place of a marker or a label, in points."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


def name_points(ax: Axes, chart: Chart) -> None:
    """Writes the label of each series near its last point, where it covers no point, line or other label.

    A label that is not beside its point has a thin line to it. Series whose last points lie on each other share a
    label. A label is left out if it finds no place. The layout of the figure must be final.
    """
    series = [one for one in chart.series if len(one.x) and np.isfinite([one.x[-1], one.y[-1]]).all()]
    marks = [_around(place) for one in series for place in _points(ax, one.x, one.y)]
    lines = _lines(ax, chart, series)
    inside = Box(*(72 / ax.figure.dpi * np.array(ax.bbox.extents)))
    labels: list[Box] = []
    leaders: list[Box] = []
    # The labels of single series come first: they are short, and belong beside their points.
    for mark, group in sorted(_groups(ax, series).items(), key=lambda item: len(item[1])):
        text = "\n".join(one.label for one in group)
        boxes = _free_places(mark, _size(ax, text), inside, np.array([*marks, *lines, *labels, *leaders]))
        around = [other for other in (*marks, *lines) if not _overlap(mark, other)]
        # A line to a label may cross markers and other lines if there is no better place.
        found = _first_visible(mark, boxes, np.array([*around, *labels, *leaders]))
        found = found or _first_visible(mark, boxes, np.array(labels))
        if found:
            box, leader = found
            labels.append(box)
            leaders += [_around(place, LINE) for place in leader]
            _write(ax, text, group, mark, box, leader)


def _points(ax: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The places `[N, 2]` of data in the figure, in points."""
    return 72 / ax.figure.dpi * ax.transData.transform(np.stack([x, y], axis=-1))


def _groups(ax: Axes, series: list[Series]) -> dict[Box, list[Series]]:
    """The series whose last points lie on each other, by the marker of the first of them."""
    groups: dict[Box, list[Series]] = {}
    for one in series:
        mark = _around(_points(ax, one.x, one.y)[-1])
        groups.setdefault(next((other for other in groups if _overlap(mark, other)), mark), []).append(one)
    return groups


def _lines(ax: Axes, chart: Chart, series: list[Series]) -> list[Box]:
    """Boxes along the lines of the series, along their intervals and along the Pareto front."""
    lines = [_points(ax, one.x, one.y) for one in series]
    lines += [_points(ax, guide.x, guide.y) for guide in chart.guides if guide.kind == "front"]
    for one in series:
        x, ends = _intervals(one)
        lines += [_points(ax, x[[i, i]], ends[i]) for i in range(len(x))]
    return [_around(place, LINE) for line in lines for place in _along(line)]


def _write(ax: Axes, text: str, group: list[Series], mark: Box, box: Box, leader: np.ndarray) -> None:
    """Writes a label into its box, in the colour of its series if they have one, with the line to its marker."""
    colours = {look(one.style).colour for one in group}
    style = {"fontsize": LABEL_SIZE, "color": colours.pop() if len(colours) == 1 else "black", "zorder": 4}
    towards = "right" if box.right < mark.left else "left"
    style |= {"ha": "center", "va": "center", "linespacing": LINE_SPACING, "multialignment": towards}
    if len(leader):
        corner = np.subtract(leader[-1], box[:2]) / np.subtract(box[2:], box[:2])
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5}
        style["arrowprops"] = line | {"patchA": None, "shrinkA": 0, "shrinkB": MARK - 1, "relpos": tuple(corner)}
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    place = {"xytext": np.subtract(box.middle, mark.middle), "textcoords": "offset points", "path_effects": halo}
    ax.annotate(text, (group[0].x[-1], group[0].y[-1]), **place, **style)


def _intervals(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """The horizontal places of the intervals of a series, and their ends `[intervals, 2]`."""
    if series.low is None:
        return np.zeros(0), np.zeros((0, 2))
    ends = np.stack([series.low, series.high], axis=-1)
    is_drawn = np.isfinite(ends).all(axis=-1) & (ends > 0).all(axis=-1)
    return series.x[is_drawn], ends[is_drawn]


def _along(line: np.ndarray) -> np.ndarray:
    """Places on a line through the points `[N, 2]`, at most 2 points apart."""
    pieces = [line[:1]]
    for start, end in itertools.pairwise(line):
        number = 2 + int(np.linalg.norm(end - start) / 2)
        pieces.append(np.linspace(start, end, number))
    return np.concatenate(pieces)


def _around(place: np.ndarray, reach: float = MARK) -> Box:
    """The box of a marker, or of a piece of a line."""
    x, y = place
    return Box(x - reach, y - reach, x + reach, y + reach)


def _size(ax: Axes, text: str) -> np.ndarray:
    """The width and the height of a label."""
    label = ax.text(0, 0, text, fontsize=LABEL_SIZE, linespacing=LINE_SPACING)
    extent = label.get_window_extent()
    label.remove()
    return 72 / ax.figure.dpi * np.array([extent.width, extent.height])


def _free_places(mark: Box, size: np.ndarray, inside: Box, taken: np.ndarray) -> list[Box]:
    """Boxes for a label that overlap none of the boxes `taken` `[N, 4]`, the nearest to the marker first."""
    apart = [half + MARK + 1 + STEP * np.arange(40) for half in size / 2]
    over = [np.arange(STEP, half, STEP) for half in size / 2]
    across, up = (np.concatenate([[0.0], far, -far, near, -near]) for far, near in zip(apart, over, strict=True))
    middles = mark.middle + np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    low, high = middles - size / 2, middles + size / 2
    fits = np.all((low > np.add(inside[:2], EDGE)) & (high < np.subtract(inside[2:], EDGE)), axis=-1)
    low, high = low[fits], high[fits]
    is_free = ~_overlaps(low, high, taken)
    low, high = low[is_free], high[is_free]
    away = (low + high) / 2 - mark.middle
    gap = np.linalg.norm(np.clip(mark.middle, low, high) - mark.middle, axis=-1)
    # Of equally near boxes, the one at the right and at the height of the marker is read most easily.
    order = np.argsort(gap + 0.01 * np.abs(away[:, 1]) + 0.5 * (away[:, 0] < 0), kind="stable")
    return [Box(*low[i], *high[i]) for i in order[:TRIED]]


def _first_visible(mark: Box, boxes: list[Box], avoided: np.ndarray) -> tuple[Box, np.ndarray] | None:
    """The first of the boxes to which a line from the marker overlaps none of the boxes `avoided` `[N, 4]`, and places
    along this line. There is no line to a box beside the marker."""
    for box in boxes:
        end = np.clip(mark.middle, box[:2], box[2:])
        length = np.linalg.norm(end - mark.middle)
        if length <= BESIDE:
            return box, np.zeros((0, 2))
        leader = _along(np.array([mark.middle + (end - mark.middle) * MARK / length, end]))
        if not _overlaps(leader - LINE, leader + LINE, avoided).any():
            return box, leader
    return None


def _overlaps(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each of the boxes with these corners, `[M, 2]`, overlaps any of the `boxes`, `[N, 4]`."""
    left, bottom, right, top = boxes.reshape(-1, 4).T
    across = (low[:, :1] < right) & (left < high[:, :1])
    return (across & (low[:, 1:] < top) & (bottom < high[:, 1:])).any(axis=-1)


def _overlap(box: Box, other: Box) -> bool:
    across = box.left < other.right and other.left < box.right
    return across and box.bottom < other.top and other.bottom < box.top
