"""Pictures of measured gradients, with panels for each group of parameters.

`experiments.common.charts.gradients` says what a row holds.
"""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.charts import Chart, Series, gradients
from experiments.common.plots import labels, panels
from experiments.common.plots.style import (
    COLOURS,
    GREY,
    VERMILLION,
    WIDTH,
    legend_above,
    legend_key,
    legend_outside,
    styled,
)
from vae.diagnostics import Comparison

Rows = list[dict[str, Any]]


@styled
def bias_forest(rows: Rows, groups: list[str], confidence: float) -> Figure:
    """The bias along the true gradient with its interval, and beside it the largest |z|.

    A filled vermillion square marks an estimator that either figure shows to be biased. An open circle marks an
    estimator whose deviations are within chance.
    """
    figure = Figure(figsize=(WIDTH, 1.05 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2 * len(groups), sharey=True, squeeze=False, width_ratios=[3, 2] * len(groups))[0]
    for group, (left, right) in zip(groups, axes.reshape(-1, 2), strict=True):
        bias, worst = gradients.bias(rows, group), gradients.largest_z(rows, group)
        for series in bias.series:
            panels.draw_bars(left, series, horizontal=True, linestyle="none", markersize=4, elinewidth=1.1)
        for series in worst.series:
            panels.draw_line(right, series, linestyle="none", markersize=4, markerfacecolor=_face(series))
        panels.set_axes(left, bias)
        panels.set_axes(right, worst)
        panels.draw_guides(right, worst)
        panels.draw_edges(left, bias)
        left.axvline(0, color=GREY, linewidth=0.8, zorder=0)
        left.set_title(group, loc="left", fontsize=8.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    truths = list(dict.fromkeys(row["truth"] for row in rows))
    title = f"truth: {truths[0]}" + (" (and for each other K)" if len(truths) > 1 else "")
    title += f"; bars: {100 * confidence:g} % intervals"
    chance = {"color": COLOURS[0], "marker": "o", "markerfacecolor": "white", "label": "as chance allows"}
    biased = {"color": VERMILLION, "marker": "s", "label": "biased"}
    handles = [Line2D([], [], markersize=4, **style) for style in (chance, biased)]
    critical = {"color": GREY, "marker": "|", "markersize": 8, "linestyle": "none"}
    handles.append(Line2D([], [], label="|z| that chance exceeds in 0.01 %", **critical))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, title=title, title_fontsize=8)
    return figure


@styled
def variance_against_cost(rows: Rows, groups: list[str], costs: Sequence[str]) -> Figure:
    """The variance against these costs of a gradient: `charts.gradients.variance_against_cost`."""
    number = len({row["estimator"] for row in rows})  # their names need room in the legend and in the panels
    figure = Figure(figsize=(WIDTH, 0.5 + 2.45 * len(groups) + 0.05 * number), layout="constrained")
    axes = figure.subplots(len(groups), len(costs), squeeze=False, sharex="col", sharey="row")
    names: dict[str, Series] = {}
    drawn: list[tuple[Axes, Chart]] = []
    for line, group in zip(axes, groups, strict=True):
        for ax, cost in zip(line, costs, strict=True):
            chart = gradients.variance_against_cost(rows, group, cost)
            ax.grid(False)
            panels.set_axes(ax, chart)
            panels.draw_guides(ax, chart)
            for axis in (ax.xaxis, ax.yaxis):
                panels.plain_ticks(axis)
            for series in chart.series:
                panels.draw_bars(ax, series, markersize=5, linewidth=0.9)
                names.setdefault(series.label, series)
            drawn.append((ax, chart))
            ax.label_outer()
    handles = [legend_key(series, markersize=5) for _, series in sorted(names.items(), key=_by_family)]
    handles += [Line2D([], [], color="black", linewidth=1, linestyle="--", label="Pareto front")]
    handles += [Line2D([], [], color="#BBBBBB", linewidth=0.8, label="equal variance × cost")]
    if any(series.hollow for _, chart in drawn for series in chart.series):
        white = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "none"}
        handles += [Line2D([], [], color=GREY, label="hollow: biased", **white)]
    legend_above(figure, handles)
    figure.draw_without_rendering()  # finds the layout, and with it the places of the points
    for ax, chart in drawn:
        labels.name_points(ax, chart)
    return figure


def comparison(result: Comparison) -> Figure:
    """The variance against the cost that decides, for the result of `vae.diagnostics.compare`."""
    rows: dict[str, dict[str, Any]] = {}
    for row in result.rows():
        by_group = {
            f"{row['group']}_{key}": row[key] for key in ("variance", "variance_low", "variance_high", "biased")
        }
        common = {"estimator": row["estimator"], "num_samples": 1, result.judge_by: row[result.judge_by]}
        rows.setdefault(row["estimator"], common).update(by_group)
    groups = list(dict.fromkeys(row["group"] for row in result.rows()))
    return variance_against_cost(list(rows.values()), groups, costs=(result.judge_by,))


@styled
def against(rows: Rows, groups: list[str], x: str, figure_name: str) -> Figure:
    """A figure against K or against the point of a sweep, with its intervals as bands: `charts.gradients.against`."""
    columns = min(len(groups), 2)
    lines = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.7 * WIDTH, 0.6 + 2.3 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax, group in zip(axes, groups, strict=False):
        chart = gradients.against(rows, group, x, figure_name)
        for series in chart.series:
            panels.draw_band(ax, series)
            panels.draw_line(ax, series, markersize=3.5, linewidth=1.1)
        panels.set_axes(ax, chart)
        if ax.has_data():
            panels.plain_ticks(ax.yaxis)
        panels.draw_guides(ax, chart)
    for ax in axes[len(groups) :]:
        ax.remove()
    handles = {line.get_label(): line for ax in figure.axes for line in ax.lines}
    legend_outside(figure, list(handles.values()))
    return figure


def _by_family(item: tuple[str, Series]) -> tuple[int, int]:
    """A sort key that puts series of the same colour together."""
    turn, colour = divmod(item[1].style, len(COLOURS))
    return colour, turn


def _face(series: Series) -> str:
    """The colour inside a marker of the largest |z|."""
    return "white" if series.hollow else VERMILLION
