"""The matplotlib renderer: draws a chart of `experiments.common.charts` into one panel."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from experiments.common.charts import Axis, Chart, Guide, Series
from experiments.common.plots.style import GREY, LIGHT_GREY, look

# Points: the size of the texts at the edges.
EDGE_SIZE = 6.5
GUIDES = {
    "equal elbo": {"color": "#999999", "linewidth": 0.7, "linestyle": "--", "zorder": 1},
    "equal product": {"color": LIGHT_GREY, "linewidth": 0.7, "zorder": 0},
    "front": {"color": "black", "linewidth": 1, "linestyle": "--"},
    "slope": {"color": GREY, "linewidth": 1, "linestyle": ":", "zorder": 1},
    "critical": {"color": GREY, "linewidth": 1.2},
}


def set_axes(ax: Axes, chart: Chart) -> None:
    """Sets the titles, scales, limits and ticks of both axes."""
    _set_axis(ax, ax.xaxis, chart.x)
    _set_axis(ax, ax.yaxis, chart.y)


def draw_guides(ax: Axes, chart: Chart) -> None:
    """Draws the guides of the chart. The limits of the axes stay as they are."""
    for guide in chart.guides:
        line = Line2D(guide.x, guide.y, label=guide.label or "_", **GUIDES[guide.kind])
        ax.add_artist(line)


def draw_edges(ax: Axes, chart: Chart) -> None:
    """Writes the texts at the edges of the chart."""
    for edge in chart.edges:
        place = {"xy": (float(edge.right), edge.y), "xycoords": ax.get_yaxis_transform(), "zorder": 4}
        style = {"ha": "right" if edge.right else "left", "va": "center", "fontsize": EDGE_SIZE}
        ax.annotate(edge.text, **place, **style, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def draw_line(ax: Axes, series: Series, *, dashed: bool = False, marked: bool = True, **style) -> None:
    """Draws a line through the points, in the look of the series. Dashes lie above solid lines, which stay visible.

    A single point, which a line would not show, always has a marker.
    """
    colour, dash, marker = look(series.style)
    marked = marked or np.count_nonzero(np.isfinite(np.asarray(series.y, float))) == 1
    style = {"linestyle": dash if dashed else "-", "marker": marker if marked else None} | style
    style = {"zorder": 2.1 if dashed and dash != "-" else 2} | style
    ax.plot(series.x, series.y, label=series.label, color=colour, **style)


def draw_band(ax: Axes, series: Series) -> None:
    """Draws the intervals of the points as a band."""
    if series.low is not None:
        ax.fill_between(series.x, series.low, series.high, color=look(series.style).colour, alpha=0.2, linewidth=0)


def draw_bars(ax: Axes, series: Series, *, horizontal: bool = False, **style) -> None:
    """Draws the points with their intervals as error bars. The markers of a hollow series are white inside."""
    colour, _, marker = look(series.style)
    measured = series.x if horizontal else series.y
    reach = np.abs([series.low - measured, series.high - measured])
    style = {"color": colour, "marker": marker, "markerfacecolor": "white" if series.hollow else colour} | style
    ax.errorbar(series.x, series.y, **{"xerr" if horizontal else "yerr": reach}, capsize=2, zorder=3, **style)


def name_equal_elbo(ax: Axes, guide: Guide, points: np.ndarray) -> None:
    """Writes the label of a line of equal ELBO where the line is farthest from the points `[N, 2]`."""
    line = np.stack([np.linspace(*guide.x, 200), np.linspace(*guide.y, 200)], axis=-1)
    low, high = np.transpose([ax.get_xlim(), ax.get_ylim()])
    inside = np.all(np.abs((line - low) / (high - low) - 0.5) < 0.4, axis=-1)  # nearer to an edge it would be clipped
    line = line[inside]
    if not len(line):
        return
    away = np.linalg.norm((line[:, None] - points[np.isfinite(points).all(-1)]) / (high - low), axis=-1)
    place = line[away.min(axis=1, initial=np.inf).argmax()]
    style = {"fontsize": 7, "color": "#666666", "ha": "center", "va": "center", "zorder": 2}
    slope = {"rotation": -45, "transform_rotates_text": True, "rotation_mode": "anchor"}
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.text(*place, guide.label, bbox=background, **style, **slope)


def plain_ticks(axis: MatplotlibAxis) -> None:
    """Puts plain numbers on a logarithmic axis if it is shorter than two decades."""
    low, high = sorted(axis.get_view_interval())
    if high >= 100 * low or low <= 0:
        return
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        places = [d * 10.0**n for n in decades for d in digits if low <= d * 10.0**n <= high]
        if len(places) >= 3:
            break
    else:  # the axis is so short that it is nearly linear
        places = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    digits = max(6, 2 + math.ceil(math.log10(high / np.diff(places).min())))  # neighbours have different names
    if 1e-3 <= low and high < 1e5:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}g}"))
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: _as_power(value, digits)))


def _as_power(value: float, digits: int) -> str:
    number, exponent = f"{value:.{digits - 1}e}".split("e")
    number = f"{float(number):.{digits}g}"
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if number == "1" else rf"${number}\times{power}$"


def _set_axis(ax: Axes, axis: MatplotlibAxis, wanted: Axis) -> None:
    name = axis.axis_name
    ax.set(**{f"{name}label": wanted.title})
    if wanted.scale == "log":
        ax.set(**{f"{name}scale": "log"})
    if wanted.limits:
        ax.set(**{f"{name}lim": wanted.limits})
    if wanted.scale == "symlog":
        getattr(ax, f"set_{name}scale")("symlog", linthresh=10)
        axis.set_major_locator(LogLocator(numticks=4))
    if wanted.ticks:
        axis.set_major_locator(FixedLocator(wanted.ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    if wanted.names:
        axis.set_ticks(range(len(wanted.names)), wanted.names)
