"""The picture of a comparison: the bias of each loss and what its gradient is, and beside it the variance."""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.plots import panels
from experiments.common.plots.style import BLUE, GREY, VERMILLION, WIDTH, styled

Row = dict[str, Any]

# The height of a block's title in lines.
BLOCK = 1.4


@styled
def draw(rows: list[Row]) -> Figure:
    """The bias along the claimed gradient and the variance, with intervals; a line of each panel is a loss.

    The losses stand in blocks with one claim, whose name is above the block. The text between the panels says whose
    gradient the mean is.
    """
    places, titles, top = _places(rows)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.165 * top), layout="constrained")
    bias, variance = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, row in zip(places, rows, strict=True):
        look = {
            "color": VERMILLION if row["biased"] else BLUE,
            "marker": "s" if row["biased"] else "o",
            "markerfacecolor": VERMILLION if row["biased"] else "white",
            "markersize": 4,
            "elinewidth": 1.1,
        }
        _point(bias, row, "bias", 100, place, look)
        _point(variance, row, "variance", 1, place, look)
        side = {"transform": bias.get_yaxis_transform(), "va": "center", "fontsize": 6.5}
        bias.text(1.01, place, _label(row), color=look["color"] if row["biased"] else GREY, **side)
    for place, title in titles.items():
        bias.text(-0.02, place, title, transform=bias.get_yaxis_transform(), ha="right", va="center", weight="bold")
    bias.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    bias.set_yticks(places, [row["estimator"] for row in rows])
    bias.set_ylim(-0.7, top)
    bias.set_xlabel("bias along the claimed gradient (%)")
    bias.set_title("has the gradient of", loc="right", fontsize=7, color=GREY, x=1.01, ha="left")
    variance.set_xscale("log")
    panels.plain_ticks(variance.xaxis)
    variance.set_xlabel("variance")
    for ax in (bias, variance):
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    unbiased = Line2D([], [], color=BLUE, marker="o", markersize=4, markerfacecolor="white", label="as chance allows")
    biased = Line2D([], [], color=VERMILLION, marker="s", markersize=4, label="biased")
    figure.legend(handles=[unbiased, biased], loc="outside upper center", ncols=2)
    return figure


def _label(row: Row) -> str:
    """Whose gradient the mean is, and how far it is from the claim."""
    if row["gradient_of"] == row["claims"]:
        return "as claimed"
    known = math.isfinite(row["exact_error"])  # the mean of a large group is not computed
    return row["gradient_of"] + (f", {100 * row['exact_error']:.0f} % off" if known else "")


def _places(rows: list[Row]) -> tuple[list[float], dict[float, str], float]:
    """The height of each row, the titles of the blocks by their heights, and the height above everything."""
    top = len(rows) + BLOCK * len({_title(row) for row in rows})
    place = top
    places, titles = [], {}
    for row in rows:
        if _title(row) not in titles.values():
            place -= BLOCK
            titles[place] = _title(row)
        place -= 1
        places.append(place)
    return places, titles, top


def _title(row: Row) -> str:
    return row["claims"] + (", old_" if row["drawn_by"] == "older" else "")


def _point(ax, row: Row, figure: str, factor: float, place: float, look: dict[str, Any]) -> None:
    value, low, high = (factor * row[f"{figure}{end}"] for end in ("", "_low", "_high"))
    ax.errorbar(value, place, xerr=[[abs(value - low)], [abs(high - value)]], linestyle="none", **look)
