"""The plotly renderer: turns the charts of `experiments.common.charts` into figures of plotly.js, as plain dicts.

A figure has the keys "data" and "layout" of plotly's schema. It also has the key "choices", a list with one dict for
each button above the figure. This dict has the keys "label" (the text of the button), "title" and "type" (the title and
the scale of the horizontal axis) and "x" (the horizontal coordinates, one list for each trace). The traces of a figure
with choices have no "x" of their own.

Colours are written as names: "@0" to "@6" for series, and "@muted", "@grid" and "@paper". report.js replaces the names
by the colours of the style sheet, light or dark.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.common.charts import Axis, Chart, Guide, Series
from experiments.common.charts.styles import numbers

Figure = dict[str, Any]

COLOURS = [f"@{i}" for i in range(7)]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = (
    *("circle", "square", "triangle-up", "diamond"),
    *("triangle-down", "triangle-left", "triangle-right", "cross"),
)
GUIDES = {
    "equal elbo": {"color": "@grid", "width": 1},
    "slope": {"color": "@muted", "width": 1, "dash": "dot"},
}
# Where the label of a guide is, as a fraction of the guide's length.
LABEL_PLACE = 0.12
# The largest number of names in a legend. The names of further series appear beside the pointer.
NAMED = 24
# Pixels: how much larger than the marker the first ring at a place is, and each further ring than the one before.
RING_STEP = 7


def draw(chart: Chart, **look) -> Figure | None:
    """The figure of a chart, or None if the chart has nothing to show. `look` goes to `_trace`."""
    if not _has_points(chart):
        return None
    guides = _guide_traces(chart.guides)
    traces = [
        _trace(series, chart, place, **look) | {"x": _coordinates(series.x, chart.x.names)}
        for place, series in _with_places(chart.series)
    ]
    return {"data": guides + traces, "layout": {"xaxis": _axis(chart.x)} | _layout(chart), "choices": []}


def draw_choices(charts: dict[str, Chart], every: int = 1, **look) -> Figure | None:
    """One figure with a button for each chart. The charts differ only in the horizontal axis.

    Guides are left out, because they would change with the axis.

    Args:
      charts: The chart of each button.
      every: Every how many points one is drawn. The last point is always drawn.
    """
    charts = {label: _thinned(chart, every) for label, chart in charts.items()}
    first = next(iter(charts.values()), None)
    if first is None or not _has_points(first):
        return None
    choices = [
        {"label": label, "title": _plain(chart.x.title), "type": chart.x.scale}
        | {"x": [_coordinates(series.x) for series in chart.series]}
        for label, chart in charts.items()
    ]
    traces = [_trace(series, first, place, **look) for place, series in _with_places(first.series)]
    return {"data": traces, "layout": _layout(first), "choices": choices}


def dashes(chart: Chart) -> dict[str, str]:
    """The dash of each group of series."""
    groups = dict.fromkeys(series.group for series in chart.series)
    return {group: DASHES[i % len(DASHES)] for i, group in enumerate(groups)}


def _with_places(series: Iterable[Series]) -> Iterator[tuple[int, Series]]:
    """Each series, with the number of series before it that the legend may name."""
    place = 0
    for one in series:
        yield place, one
        place += not one.faint


def _trace(
    series: Series,
    chart: Chart,
    place: int,
    *,
    hover: str,
    mode: str = "lines+markers",
    width: float = 2,
    size: float = 6,
    outline: bool = False,
    bars: bool = False,
) -> dict[str, Any]:
    """A series as a trace of plotly's schema, without "x".

    Args:
      place: The number of named series before this one.
      hover: plotly's template of the text that appears when the pointer is on a point.
      mode: "lines", "markers" or both.
      width: Width of the line.
      size: Size of the markers.
      outline: Whether markers have an edge in the colour of the paper.
      bars: Whether intervals are drawn, as error bars.
    """
    colour_number, dash_number, _ = numbers(series.style)
    colour = COLOURS[colour_number]
    dash = dashes(chart)[series.group] if series.group else DASHES[dash_number % len(DASHES)]
    label = _plain(series.label)
    trace = {"type": "scatter", "y": _coordinates(series.y, chart.y.names), "legendgroup": label, "mode": mode}
    line = {"color": colour, "dash": dash, "width": width}
    if series.faint:
        faint = {"mode": "lines", "opacity": 0.35, "hoverinfo": "skip", "showlegend": False}
        return trace | faint | {"line": line | {"width": 1}}
    marker = {"color": colour, "symbol": _symbol(series), "size": size}
    if series.ring:
        trace["mode"] = "markers"
        marker |= {"symbol": "circle-open", "size": 2.5 * size, "line": {"width": 1.5}}
    if outline:
        marker["line"] = {"color": "@paper", "width": 1}
    if series.hidden is not None:
        rings = series.hidden.tolist()
        marker["size"] = [size + RING_STEP * number for number in rings]
        marker["symbol"] = [marker["symbol"] + "-open" * (number > 0) for number in rings]
        marker |= {"line": {"color": "@paper", "width": [1.5 if number else 1 for number in rings]}, "opacity": 1}
    extra = f"<extra>{label}{f' ({_plain(series.remark)})' if series.remark else ''}</extra>"
    trace |= {"name": label, "line": line, "marker": marker, "hovertemplate": hover + extra}
    trace["showlegend"] = place < NAMED or not _is_visible(series, chart.y)
    if series.details:
        trace["customdata"] = list(series.details)
    if series.remarks:
        trace["text"] = ["".join(f"<br>{line}" for line in _plain(text).splitlines()) for text in series.remarks]
    if bars and series.low is not None:
        trace["error_x" if chart.y.names else "error_y"] = _bars(series, chart, colour)
    return trace


def _guide_traces(guides: Iterable[Guide]) -> list[dict[str, Any]]:
    """The lines of the guides. Each has its label near its start. A label that several guides share is shown once.

    Short lines in a corner have no label, because it would not fit.
    """
    traces = []
    labels: set[str] = set()
    guides = [guide for guide in guides if guide.kind in GUIDES]
    longest = max((abs(guide.x[-1] - guide.x[0]) for guide in guides), default=0)
    for guide in guides:
        in_a_corner = guide.kind == "equal elbo" and abs(guide.x[-1] - guide.x[0]) < longest / 4
        text = "" if guide.label in labels or in_a_corner else _plain(guide.label)
        labels.add(guide.label)
        between = _geometric if guide.kind == "slope" else _linear
        x, y = ([ends[0], between(ends[0], ends[-1]), ends[-1]] for ends in (guide.x, guide.y))
        trace = {"type": "scatter", "x": x, "y": y, "line": GUIDES[guide.kind], "showlegend": False}
        side = "bottom right" if y[-1] > y[0] else "top right"  # beside the line, not on it
        label = {"mode": "lines+text", "text": ["", text, ""], "textposition": side, "cliponaxis": False}
        traces.append(trace | label | {"textfont": {"size": 10, "color": "@muted"}, "hoverinfo": "skip"})
    return traces


def _linear(first: float, last: float) -> float:
    """Where the label is on a guide that is straight on linear axes."""
    return first + LABEL_PLACE * (last - first)


def _geometric(first: float, last: float) -> float:
    """Where the label is on a guide that is straight on logarithmic axes."""
    return first * (last / first) ** LABEL_PLACE


def _symbol(series: Series) -> str:
    _, _, marker = numbers(series.style)
    return SYMBOLS[marker % len(SYMBOLS)] + ("-open" if series.hollow else "")


def _bars(series: Series, chart: Chart, colour: str) -> dict[str, Any]:
    """Error bars. Where the end of an interval is not finite, or on the wrong side of its point, there is no bar."""
    measured = series.x if chart.y.names else series.y
    below, above = (
        np.nan_to_num(reach, nan=0.0, posinf=0.0) for reach in (measured - series.low, series.high - measured)
    )
    style = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 3}
    return style | {"array": above.clip(0).tolist(), "arrayminus": below.clip(0).tolist()}


def _layout(chart: Chart) -> dict[str, Any]:
    layout: dict[str, Any] = {"yaxis": _axis(chart.y)}
    if chart.y.names:
        layout["height"] = 120 + 22 * len(chart.y.names)
    layout["annotations"] = [
        {"text": _plain(edge.text), "xref": "paper", "x": int(edge.right), "xanchor": "right" if edge.right else "left"}
        | {"y": _plain(chart.y.names[int(edge.y)]), "showarrow": False, "bgcolor": "@paper", "font": {"size": 11}}
        for edge in chart.edges
    ]
    if chart.note:
        place = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom", "yshift": 8}
        style = {"showarrow": False, "font": {"size": 11, "color": "@muted"}}
        layout["annotations"].append({"text": _plain(chart.note)} | place | style)
    return layout


def _axis(axis: Axis) -> dict[str, Any]:
    if axis.names:
        names = [_plain(name) for name in axis.names]
        return {"type": "category", "categoryarray": names, "tickfont": {"size": 11}}
    drawn: dict[str, Any] = {"title": {"text": _plain(axis.title)}, "type": axis.scale}
    if axis.limits:
        drawn["range"] = [math.log10(limit) if axis.scale == "log" else limit for limit in axis.limits]
    if axis.ticks:
        drawn |= {"tickmode": "array", "tickvals": list(axis.ticks), "ticktext": [f"{tick:g}" for tick in axis.ticks]}
    return drawn


def _coordinates(values: np.ndarray, names: tuple[str, ...] = ()) -> list[Any]:
    """The values as a list, or their names on an axis of names.

    A series without points gets one gap, because plotly's legend would otherwise leave the series out.
    """
    return [_plain(names[int(place)]) for place in values] if names else values.tolist() or [None]


def _has_points(chart: Chart) -> bool:
    return any(np.isfinite(series.y).any() for series in chart.series)


def _is_visible(series: Series, y: Axis) -> bool:
    low, high = y.limits or (-math.inf, math.inf)
    return bool(np.any((series.y >= low) & (series.y <= high)))


def _thinned(chart: Chart, every: int) -> Chart:
    return chart._replace(
        series=[
            series._replace(
                x=series.x[(len(series.x) - 1) % every :: every], y=series.y[(len(series.y) - 1) % every :: every]
            )
            for series in chart.series
        ]
    )


def _plain(text: str) -> str:
    """The text with its special characters escaped, so that plotly finds no tag and no %{...}."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")
