"""Pictures of trained models: learning curves of one run, the comparison of many runs, the rate-distortion plane."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common import charts
from experiments.common.charts import training
from experiments.common.comparison import Comparison
from experiments.common.plots import panels
from experiments.common.plots.style import GREY, WIDTH, legend_key, legend_outside, look, styled

# Points: how much larger than the marker the first ring at a place is, and each further ring than the one before.
RING_STEP = 4.5
RING = {"linestyle": "", "marker": "o", "markersize": 10, "fillstyle": "none"}


@styled
def learning_curves(rows: list[dict[str, Any]], split: str, timing: list[float] | None = None) -> Figure:
    """The bound, the rate and the distortion of one run against epochs: `charts.training.learning`.

    Args:
      timing: The seconds of training at each row, which are shown on a second horizontal axis.
    """
    figure = Figure(figsize=(WIDTH, 2.5 if timing is None else 2.8), layout="constrained")
    axes = figure.subplots(1, 3)
    epochs = charts.chart.column(rows, "epoch")
    marker = "o" if len(rows) <= 30 else None
    for ax, chart in zip(axes, training.learning(rows, split), strict=True):
        panels.set_axes(ax, chart)
        for series in chart.series:
            panels.draw_line(ax, series, marker=marker, markersize=2.5)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if chart.note:  # a legend finds the place where it covers least of the lines
            ax.legend(handles=[], title=chart.note, title_fontsize=8, borderpad=0.1, loc="best")
        if timing is not None:
            _add_clock(ax, epochs, timing)
    legend_outside(figure, [line for line in axes[0].lines if len(line.get_xdata())])
    return figure


@styled
def compare_runs(runs: list[dict[str, Any]]) -> Figure:
    """The held-out ELBO of many runs against steps, against evaluations of f if the costs of their steps differ, and
    against seconds if they are known: `charts.training.bound`.

    Thin lines are seeds. A band is one standard error of the mean over seeds.
    """
    costs = {run.get("step_evaluations") for run in runs}
    clocks = ["step"] + ["evaluations"] * (len(costs) > 1 and None not in costs)
    clocks += ["seconds"] * any(run.get("seconds") is not None for run in runs)
    names = len({run["label"] for run in runs})
    width = WIDTH if len(clocks) > 1 else 0.7 * WIDTH
    figure = Figure(figsize=(width, 3.0 + 0.15 * max(0, names - 16)), layout="constrained")
    axes = figure.subplots(1, len(clocks), sharey=True, squeeze=False)[0]
    for ax, clock in zip(axes, clocks, strict=True):
        chart = training.bound(runs, clock)
        for series in chart.series:
            if series.faint:
                line = series._replace(label="_")
                panels.draw_line(ax, line, dashed=True, marked=False, alpha=0.4, linewidth=0.5)
            else:
                panels.draw_band(ax, series)
                panels.draw_line(ax, series, dashed=True, marked=False)
        panels.set_axes(ax, chart)
        if chart.x.scale == "log":
            ax.set_xscale("log", nonpositive="mask")
        else:
            ax.locator_params(axis="x", nbins=max(5, 12 // len(clocks)))  # the numbers need room
    for ax in axes[1:]:
        ax.set_ylabel("")
    axes[-1].set_title(chart.note, loc="right", fontsize=7, color=GREY)
    legend_outside(figure, [line for line in axes[0].lines if not line.get_label().startswith("_")])
    return figure


@styled
def candidates(comparison: Comparison) -> Figure:
    """The validation bound against each other swept setting, with rings around chosen points.

    The panels are `charts.training.candidates`. The comparison must have other swept settings.
    """
    figure = Figure(figsize=(min(1, 0.25 + 0.4 * len(comparison.others)) * WIDTH, 3.0), layout="constrained")
    axes = figure.subplots(1, len(comparison.others), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, comparison.others, strict=True):
        chart = training.candidates(comparison, name)
        for series in chart.series:
            if series.ring:
                panels.draw_line(ax, series, **RING)
            else:
                panels.draw_bars(ax, series, linestyle="-", markersize=4)
        panels.set_axes(ax, chart)
    for ax in axes[1:]:
        ax.set_ylabel("")
    axes[-1].set_title(chart.note, loc="right", fontsize=7, color=GREY)
    named = [legend_key(series, **(RING if series.ring else {"markersize": 4})) for series in chart.series]
    legend_outside(figure, named)
    return figure


@styled
def rate_distortion(points: list[dict[str, Any]]) -> Figure:
    """Trained models in the plane of rate and distortion: `charts.training.rate_distortion`."""
    figure = Figure(figsize=(0.7 * WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.grid(False)
    chart = training.rate_distortion(points)
    for series in chart.series:
        colour, _, marker = look(series.style)
        is_ring = series.hidden > 0
        faces, edges = np.where(is_ring, "none", colour), np.where(is_ring, colour, "white")
        sizes = (5.3 + RING_STEP * series.hidden) ** 2
        style = {"linewidth": np.where(is_ring, 1.0, 0.5), "zorder": 3, "clip_on": False}
        ax.scatter(series.x, series.y, sizes, facecolors=faces, edgecolors=edges, marker=marker, **style)
    panels.set_axes(ax, chart)
    panels.draw_guides(ax, chart)
    ax.set_title(chart.note, loc="right", fontsize=7, color=GREY)
    places = np.array([place for series in chart.series for place in zip(series.x, series.y, strict=True)])
    for guide in chart.guides:
        panels.name_equal_elbo(ax, guide, places)
    legend_outside(figure, [legend_key(series, linestyle="none", markersize=5) for series in chart.series])
    return figure


def _add_clock(ax: Axes, epochs: np.ndarray, timing: list[float]) -> None:
    """Adds a second horizontal axis with the seconds of training, interpolated between the rows."""
    seconds = np.asarray(timing, dtype=float)
    if seconds.shape != epochs.shape:
        raise ValueError(f"timing has shape {seconds.shape} for {len(epochs)} rows; it needs one number for each row")

    start = [] if epochs[0] == 0 else [0]
    if len(epochs) + len(start) < 2:  # an untrained model alone
        return
    x, y = map(_extended, ([*start, *epochs], [*start, *seconds]))
    clock = ax.secondary_xaxis("top", functions=(lambda epoch: np.interp(epoch, x, y), lambda s: np.interp(s, y, x)))
    clock.xaxis.set_major_locator(_ApartLocator(lambda seconds: np.interp(seconds, y, x)))
    clock.xaxis.set_major_formatter("{x:,g}")
    clock.set_xlabel("training time (s)")


class _ApartLocator(MaxNLocator):
    """Ticks of the clock that are not printed over each other, where some epochs took longer than others.

    Args:
      epoch_at: The epoch at which so many seconds have passed.
    """

    def __init__(self, epoch_at: Callable[[float], float]):
        super().__init__(4, steps=[1, 2, 5, 10])
        self._epoch_at = epoch_at

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        distance = 0.1 * (self._epoch_at(vmax) - self._epoch_at(vmin))
        chosen: list[float] = []
        for tick in reversed(super().tick_values(vmin, vmax)):
            is_apart = not chosen or self._epoch_at(chosen[-1]) - self._epoch_at(tick) >= distance
            if vmin <= tick <= vmax and is_apart:
                chosen.append(float(tick))
        return np.array(chosen[::-1])


def _extended(points: list[float]) -> np.ndarray:
    """The points of a line, and points far before and behind them on its first and its last stretch. An axis is longer
    than the curves that it shows."""
    return np.array([points[0] - 100 * (points[1] - points[0]), *points, points[-1] + 100 * (points[-1] - points[-2])])
