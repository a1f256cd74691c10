"""The picture of the matrix: a heat map of variance x cost, with a mark for each bias."""

import math
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.charts import gradients
from experiments.common.plots.style import GREY, LIGHT_GREY, VERMILLION, WIDTH, styled
from vae.estimators import BY_NAME

# The colours end here: an estimator that needs a thousand times the draws of the best one is as useless as a worse one.
WORST = 1000.0
DARK = 12.0  # text is white on cells of a smaller ratio


@styled
def draw(rows: list[dict[str, Any]], judge_by: str) -> Figure:
    """A row for each estimator, a column for each problem. A pair that does not fit is white."""
    names = order(rows)
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    ratios = np.full((len(names), len(problems)), np.nan)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.17 * len(names)), layout="constrained")
    ax = figure.subplots()
    for row in rows:
        place = names.index(row["estimator"]), problems.index(row["problem"])
        ratios[place] = row[f"variance_x_{judge_by}"]
        is_dark = ratios[place] < DARK
        colour = "white" if is_dark else "black"
        ax.text(*place[::-1], _number(ratios[place]), color=colour, ha="center", va="center", fontsize=7)
        if row["biased"]:
            ax.plot(place[1] + 0.41, place[0], "<", color=VERMILLION, markersize=5, markeredgecolor="white", mew=0.5)
    shown = np.clip(np.ma.masked_invalid(ratios), 0.1, WORST)
    image = ax.imshow(shown, norm=LogNorm(1, WORST), cmap="viridis", aspect="auto")
    ax.set_xticks(range(len(problems)), [name.replace("_", "\n") for name in problems], fontsize=7)
    declared = {row["estimator"] for row in rows if row["declared_biased"]}
    ax.set_yticks(range(len(names)), [name + " *" * (name in declared) for name in names], fontsize=7.5)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(len(problems) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.5, aspect=40, extend="both", pad=0.02)
    bar.set_label(
        f"variance x {gradients.COST_NAMES[judge_by]}, relative to the best unbiased estimator of the problem"
    )
    mark = Line2D([], [], color=VERMILLION, marker="<", markersize=5, linestyle="none", label="biased, as measured")
    star = Line2D([], [], color=GREY, marker="$*$", markersize=5, linestyle="none", label="biased by its paper")
    figure.legend(handles=[mark, star], loc="outside lower center", ncols=2, edgecolor=LIGHT_GREY)
    return figure


def order(rows: list[dict[str, Any]]) -> list[str]:
    """The estimators of the rows, in the order of the table of estimators."""
    places = {name: place for place, name in enumerate(BY_NAME)}
    names = dict.fromkeys(row["estimator"] for row in rows)
    return sorted(names, key=lambda name: places[name.partition(":")[0]])


def _number(ratio: float) -> str:
    """Two digits: 0.36, 1.0, 24, 430, 5.9k, 2.1M, 2.2G."""
    if not math.isfinite(ratio):
        return "-"
    if ratio == 0:
        return "exact"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if ratio >= 0.995 * unit:
            scaled = ratio / unit
            return f"{scaled:.1f}{name}" if scaled < 9.95 else f"{scaled:.0f}{name}"
    return f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.0e}".replace("e-0", "e-")
