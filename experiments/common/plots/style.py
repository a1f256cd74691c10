"""How pictures look and how they are written: fonts, colours, markers, legends and files."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from experiments.common import files
from experiments.common.charts import Series
from experiments.common.charts.styles import numbers

WIDTH = 6.75  # inches of a page with two columns
# Okabe & Ito (2008), safe for the colour-blind, without their yellow, which is invisible on white paper.
COLOURS = BLUE, VERMILLION, *_ = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
GREY = "#777777"
LIGHT_GREY = "#DDDDDD"
DASHES = ("-", "--", ":", "-.", (0, (9, 3)), (0, (9, 2, 1, 2, 1, 2)))
MARKERS = "os^Dv<>P"
RC = {
    "font.size": 8,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),
    "grid.color": LIGHT_GREY,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


@contextmanager
def _own_style() -> Iterator[None]:
    """A context with matplotlib's defaults and `RC`, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


# A decorator: the style holds within the function and nowhere else.
styled = _own_style()


class Look(NamedTuple):
    """Colour, dash and marker of a series."""

    colour: str
    dash: str | tuple
    marker: str


def look(style: int) -> Look:
    """The look of the series number `style`. After seven series the colours return with other dashes and markers."""
    colour, dash, marker = numbers(style)
    return Look(COLOURS[colour], DASHES[dash % len(DASHES)], MARKERS[marker % len(MARKERS)])


@styled
def save(picture: Figure | np.ndarray, path: str | Path) -> list[Path]:
    """Writes a figure as `path`.png and `path`.pdf, or an image `[height, width, 3]` in [0, 1] as `path`.png.

    A file is written completely or not at all. Equal pictures give equal bytes, because no date is stored.

    Returns:
      The paths of the files.
    """
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    if isinstance(picture, Figure):
        _typeset_powers_of_ten(picture)
    else:
        del metadata["pdf"]
    paths = [Path(f"{path}.{kind}") for kind in metadata]
    for target, (kind, undated) in zip(paths, metadata.items(), strict=True):
        drawing = io.BytesIO()
        if isinstance(picture, Figure):
            picture.savefig(drawing, format=kind, metadata=undated)
            picture.set_layout_engine("none")  # the next format keeps this layout; finding it takes as long as drawing
        else:
            matplotlib.image.imsave(drawing, picture, format=kind, metadata=undated)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(target, drawing.getvalue())
    return paths


def _typeset_powers_of_ten(figure: Figure) -> None:
    """Shows ×10⁶ instead of 1e6 at axes with such a factor. Without it, plain ticks take half the time to draw."""
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, ScalarFormatter):
            formatter.set_locs(axis.get_majorticklocs())
            formatter.set_useMathText(bool(formatter.get_offset()))


def legend_key(series: Series, **style) -> Line2D:
    """A line for a legend, in the colour and with the marker of a series."""
    colour, _, marker = look(series.style)
    return Line2D([], [], **{"color": colour, "marker": marker, "linewidth": 1.1, "label": series.label} | style)


def legend_outside(figure: Figure, handles: list) -> None:
    """A legend above the panels in as many columns as fit, or right of them if it has more than eight names."""
    if len(handles) > 8:
        figure.legend(handles=handles, loc="outside right upper")
    elif handles:
        legend_above(figure, handles)


def legend_above(figure: Figure, handles: list) -> None:
    """A legend above the panels in as many columns as fit."""
    inches = [0.55 + 0.06 * len(handle.get_label()) for handle in handles]  # of a name with its line
    for columns in range(len(handles), 0, -1):
        rows = math.ceil(len(handles) / columns)
        if sum(max(inches[i : i + rows]) for i in range(0, len(handles), rows)) <= figure.get_figwidth():
            break
    figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))
