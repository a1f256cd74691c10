"""Charts of measured gradients: variance against cost, bias, and a figure against K or the point of a sweep.

A row is a dict about one estimator at one point. Its keys are "estimator", "num_samples", "evaluations", "flops",
"seconds", "declared_biased", "truth" and, for each group g of parameters and each figure, f"{g}_{figure}". The interval
of a figure is from f"{g}_{figure}_low" to f"{g}_{figure}_high".
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.common.charts.chart import Axis, Chart, Edge, Guide, Series, column
from experiments.common.charts.styles import paper_label, styles
from experiments.common.tables import number

COSTS = {
    "evaluations": "evaluations of f per gradient",
    "flops": "FLOP per gradient",
    "seconds": "time per gradient (s)",
}
COST_NAMES = {"evaluations": "evaluations", "flops": "FLOP", "seconds": "time"}
FIGURES = {
    "snr": "signal-to-noise ratio",
    "dsnr": "directional signal-to-noise ratio",
    "variance": "variance",
}
POINTS = {
    "num_samples": "number of samples, K",
    "cost_parameter": "parameter of the cost, k",
    "epoch": "epoch of the checkpoint",
}

# Intervals that reach so many times farther than the median are outside of the axis of a bias.
LONG = 3.0

Row = dict[str, Any]


def costs(judge_by: str) -> tuple[str, ...]:
    """The costs that a comparison multiplies with the variance: the one that decides, and the time."""
    return tuple(dict.fromkeys((judge_by, "seconds")))


def labels(rows: list[Row]) -> list[str]:
    """The name of each row's estimator, with its K if the rows have several K."""
    several = len({row["num_samples"] for row in rows}) > 1
    return [row["estimator"] + (f", K={row['num_samples']}" if several else "") for row in rows]


def variance_against_cost(rows: list[Row], group: str, cost: str) -> Chart:
    """The variance of the gradient in `group` against the cost of one gradient, on logarithmic axes.

    An estimator that was measured to be biased has hollow markers. The guides are the Pareto front of the other
    estimators, and lines of equal variance times cost.

    Args:
      cost: A key of `COSTS`.
    """
    looks = styles(row["estimator"] for row in rows)
    rows = [row for row in rows if _positive(row[f"{group}_variance"]) and _positive(row[cost])]
    series = []
    for name, style in looks.items():
        mine = sorted((row for row in rows if row["estimator"] == name), key=lambda row: row["num_samples"])
        if mine:
            hollow = any(row[f"{group}_biased"] for row in mine)
            details = tuple(row["num_samples"] for row in mine)
            ends = [column(mine, f"{group}_variance_{end}") for end in ("low", "high")]
            x, y = column(mine, cost), column(mine, f"{group}_variance")
            series.append(Series(paper_label(name), style, x, y, *ends, hollow=hollow, details=details))
    x = Axis(COSTS[cost], "log", _decade(column(rows, cost)))
    y = Axis(f"{group}: variance", "log", _decade(column(rows, f"{group}_variance")))
    guides = ()
    if series:
        unbiased = [row for row in rows if not row[f"{group}_biased"]]
        front = _pareto_front([(row[cost], row[f"{group}_variance"]) for row in unbiased], x.limits[1])
        guides = (*front, *_equal_products(x.limits, y.limits))
    note = "hollow: found biased" if any(one.hollow for one in series) else ""
    return Chart(series, x, y, guides, note)


def bias(rows: list[Row], group: str) -> Chart:
    """The bias along the true gradient with its interval, in percent of the true norm. Each row has its own line.

    If a few intervals are much longer than the others, the axis is made for the others, and the few are written at the
    edge.
    """
    chance, biased = [], []
    for place, row in zip(_places(rows), rows, strict=True):
        if math.isfinite(row[f"{group}_bias"]):
            (biased if row[f"{group}_biased"] else chance).append((place, row))
    series = []
    for label, style, points in (("as chance allows", 0, chance), ("biased", 1, biased)):
        if points:
            places, mine = zip(*points, strict=True)
            x = 100 * column(mine, f"{group}_bias")
            reach = 100 * column(mine, f"{group}_bias_high") - x
            details = tuple((row[f"{group}_max_abs_z"], row[f"{group}_critical_z"]) for row in mine)
            series.append(
                Series(label, style, x, np.array(places), x - reach, x + reach, hollow=not style, details=details)
            )
    reach = [float(np.max(np.abs([one.low[i], one.high[i]]))) for one in series for i in range(len(one.x))]
    typical = float(np.median([one for one in reach if 0 < one < math.inf] or [math.inf]))
    shown = max((one for one in reach if one <= LONG * typical), default=math.inf)
    limits = (-1.1 * shown, 1.1 * shown) if max(reach, default=0) > shown > 0 else None
    edges = tuple(_edges(series, limits)) if limits else ()
    return Chart(series, Axis("bias along truth (%)", limits=limits), _names(rows), edges=edges)


def _edges(series: list[Series], limits: tuple[float, float]) -> Iterator[Edge]:
    """A text for each interval that is not within the limits: its point and its ends, and an arrow if it goes on.

    The text is on the side of a point that the axis does not show, and otherwise on the other side of the point.
    """
    low, high = limits
    for one in series:
        for x, y, start, end in zip(one.x, one.y, one.low, one.high, strict=True):
            if not low <= start <= end <= high:
                right = bool(x > high or low <= x < 0)
                text = f"{number(x, 2)} [{number(start, 2)}, {number(end, 2)}]".replace("-", "\N{MINUS SIGN}")
                if right and end > high:
                    text = f"{text} \N{RIGHTWARDS ARROW}"
                if not right and start < low:
                    text = f"\N{LEFTWARDS ARROW} {text}"
                yield Edge(float(y), text, right)


def largest_z(rows: list[Row], group: str) -> Chart:
    """The largest |z| of each row's gradient, with a guide at the |z| that chance exceeds in 0.01 % of all cases.

    A z is the deviation of one coordinate of the mean gradient from the truth, in standard errors.
    """
    series, guides = [], []
    for place, row in zip(_places(rows), rows, strict=True):
        biased = bool(row[f"{group}_biased"])
        z, critical = row[f"{group}_max_abs_z"], row[f"{group}_critical_z"]
        label = "biased" if biased else "as chance allows"
        series.append(Series(label, int(biased), np.array([z]), np.array([place]), hollow=not biased))
        guides.append(Guide("critical", np.array([critical, critical]), place + np.array([-0.4, 0.4])))
    largest = float(np.nanmax([column(rows, f"{group}_{figure}") for figure in ("max_abs_z", "critical_z")]))
    x = Axis("largest |z|", "symlog" if largest > 40 else "linear", (0.0, 1.08 * largest))
    return Chart(series, x, _names(rows), tuple(guides))


def against(rows: list[Row], group: str, x: str, figure: str) -> Chart:
    """A figure with its interval on a logarithmic axis, against K or against the point of a sweep.

    Values that are not positive are left out. The horizontal axis is logarithmic unless its values are evenly spaced,
    as epochs are. For the signal-to-noise ratio against K, guides have the slopes +1/2 and -1/2.

    Args:
      x: A column of the rows. "num_samples" gives a line for each estimator; the point of a sweep, such as "epoch",
        gives a line for each estimator and K.
      figure: A key of `FIGURES`.
    """
    key = f"{group}_{figure}"
    names = [row["estimator"] for row in rows] if x == "num_samples" else labels(rows)
    series = []
    for name, style in styles(names).items():
        mine = [row for row, label in zip(rows, names, strict=True) if label == name and _positive(row[key])]
        mine.sort(key=lambda row: row[x])
        if mine:
            ends = [column(mine, f"{key}_{end}") for end in ("low", "high")]
            series.append(Series(paper_label(name), style, column(mine, x), column(mine, key), *ends))
    guides = tuple(_slopes(series)) if (x, figure) == ("num_samples", "snr") and series else ()
    y = Axis(f"{group}: {FIGURES[figure]}", "log")
    return Chart(series, _point_axis(sorted({float(row[x]) for row in rows}), x), y, guides)


def _point_axis(places: list[float], name: str) -> Axis:
    even = len(places) > 2 and bool(np.allclose(np.diff(places), places[1] - places[0]))
    log = bool(places) and places[0] > 0 and not even
    ticks = tuple(places) if len(places) <= 8 and (log or even) else ()
    return Axis(POINTS.get(name, name), "log" if log else "linear", ticks=ticks)


def _positive(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _places(rows: list[Row]) -> range:
    """The height of each row; the first row is the highest."""
    return range(len(rows) - 1, -1, -1)


def _names(rows: list[Row]) -> Axis:
    """A vertical axis with the rows' names, the first row at the top. A star marks estimators declared biased."""
    names = [
        paper_label(label) + (" *" if row["declared_biased"] else "")
        for label, row in zip(labels(rows), rows, strict=True)
    ]
    return Axis("", limits=(-0.7, len(rows) - 0.3), names=tuple(reversed(names)))


def _decade(values: np.ndarray) -> tuple[float, float] | None:
    """The limits of a logarithmic axis around the values, at least a decade apart."""
    if not len(values):
        return None
    low, high = math.log10(values.min()), math.log10(values.max())
    room = max(0.12 * (high - low), (1 - (high - low)) / 2, 0.15)
    return 10 ** max(low - room, -300), 10 ** min(high + room, 300)


def _pareto_front(points: list[tuple[float, float]], right: float) -> Iterator[Guide]:
    """The Pareto front: a staircase from the cheapest to the costliest of the points that no other point beats in both
    coordinates, and on to the right edge. No line goes up from the cheapest point, because points that are only a
    little costlier would seem to be on it."""
    points = sorted(points)
    front = [point for i, point in enumerate(points) if all(point[1] < other[1] for other in points[:i])]
    if not front:
        return
    corners = front[:1]
    for x, y in front[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    corners.append((right, corners[-1][1]))
    x, y = np.transpose(corners)
    yield Guide("front", x, y, "Pareto front")


def _equal_products(x_limits: tuple[float, float], y_limits: tuple[float, float]) -> Iterator[Guide]:
    """Lines of equal x times y, one for each power of ten."""
    left, right = np.log10(x_limits)
    low, high = np.log10(y_limits)
    for product in range(math.ceil(left + low), math.floor(right + high) + 1):
        ends = np.array([left, right])
        yield Guide("equal product", 10**ends, 10 ** (product - ends), "equal variance × cost")


def _slopes(series: list[Series]) -> Iterator[Guide]:
    """Lines of the slopes 1/2 and -1/2 through the middle of the points."""
    places = np.unique(np.concatenate([one.x for one in series]))
    middle = math.exp(np.mean(np.log(np.concatenate([one.y for one in series]))))
    centre = math.sqrt(places[0] * places[-1])
    for power in (0.5, -0.5):
        yield Guide("slope", places, middle * (places / centre) ** power, "slopes +1/2 and \N{MINUS SIGN}1/2")
