"""Pictures of a toy problem while each estimator trains: `experiments.common.charts.toys`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.charts import Series, toys
from experiments.common.charts.styles import paper_label
from experiments.common.plots import panels
from experiments.common.plots.style import LIGHT_GREY, WIDTH, legend_key, styled


@styled
def toy_curves(
    steps: np.ndarray, curves: dict[str, dict[str, np.ndarray]], titles: list[str], families: dict[str, list[str]]
) -> Figure:
    """The loss and the variance of the gradient against steps, for each family of estimators and point of a toy.

    A family has a column, and a point has two rows. The losses of the other families are drawn in grey.

    Args:
      steps: The recorded steps, `[steps]`.
      curves: The "loss" and the "variance" of each estimator, `[points, seeds, steps]`. The mean over seeds is drawn.
      titles: A title for each point.
      families: The estimators of each family.
    """
    count = len(titles)
    figure = Figure(figsize=(WIDTH + 1.2, 1.1 + 2.3 * count), layout="constrained")
    shape = {"height_ratios": [0.75, *[1] * 2 * count], "squeeze": False}
    keys, *axes = figure.subplots(1 + 2 * count, len(families), sharex=True, sharey="row", **shape)
    for row, (figure_name, i) in zip(axes, [(name, i) for name in toys.FIGURES for i in range(count)], strict=True):
        values = {name: _by_step(steps, curve[figure_name][i]) for name, curve in curves.items()}
        chart = toys.curves(values, families, figure_name)
        for ax, family in zip(row, families, strict=True):
            others = [series for series in chart.series if series.group != family]
            for series in others if figure_name == "loss" else []:
                ax.plot(series.x, series.y, color=LIGHT_GREY, linewidth=0.7, zorder=1)
            _draw_family([series for series in chart.series if series.group == family], ax, len(steps))
            ax.set_yscale(chart.y.scale)
        if figure_name == "loss":
            row[0].ticklabel_format(axis="y", useOffset=False)
        row[0].set_ylabel(f"{chart.y.title}\n{titles[i]}")
    for column, (family, names) in enumerate(families.items()):
        axes[-1][column].set_xlabel("step")
        keys[column].axis("off")
        none = np.zeros(0)
        handles = [
            legend_key(Series(paper_label(name), style, none, none), markersize=4) for style, name in enumerate(names)
        ]
        corner = {"loc": "upper left", "bbox_to_anchor": (-0.05, 1), "alignment": "left", "borderpad": 0}
        keys[column].legend(handles=handles, title=family, title_fontproperties={"weight": "bold"}, **corner)
    return figure


def _by_step(steps: np.ndarray, values: np.ndarray) -> toys.Curve:
    """The values `[seeds, steps]` at each step."""
    return {int(step): values[:, t].tolist() for t, step in enumerate(steps)}


def _draw_family(family: list[Series], ax: Axes, steps: int) -> None:
    """The curves of a family. Their markers are at different steps, so that curves on top of each other can be seen."""
    every = max(len(family), steps // 6)
    for place, series in enumerate(family):
        apart = {"markevery": (place * every // len(family), every)}
        panels.draw_line(ax, series, markersize=3, linewidth=1.1, **apart)
