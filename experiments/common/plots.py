"""Every picture the experiments write: numpy arrays or evaluation rows in, a matplotlib `Figure` out, then `save`.

Images are [..., H, W, C] in [0, 1] with C = 1 (grey) or 3 (RGB); bounds, rates and distortions are in nats. No pyplot:
a figure belongs to its caller, nothing is shown and no backend is chosen. Sizes are those of a printed page, in inches.
"""

import io
import itertools
import math
import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.common import curves

WIDTH = 6.75  # of a page with two columns
# Okabe & Ito (2008), safe for the colour-blind, without the yellow that white paper swallows.
COLOURS = BLUE, VERMILLION, *_ = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}
_styled = matplotlib.rc_context(STYLE)  # as a decorator: entered anew on every call


@_styled
def save(figure, path):
    """Write `path`.png and `path`.pdf, each whole or not at all, equal bytes for equal figures; returns both paths."""
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    paths = [Path(f"{path}.{kind}") for kind in undated]
    for target, (kind, metadata) in zip(paths, undated.items(), strict=True):
        drawing = io.BytesIO()
        figure.savefig(drawing, format=kind, metadata=metadata)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            partial.write_bytes(drawing.getvalue())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return paths


# Curves


@_styled
def learning_curves(rows, split, timing=None):
    """Bound, rate and distortion of one run against epochs, in nats.

    rows: evaluations, dicts with "epoch", "elbo_nats", "rate_nats", "distortion_nats" (all on `split`), perhaps
        "bound_nats" (training objective, mean over the epoch) and "active_units". What is absent or NaN is left out.
    timing: seconds of training at each row, shown as a second horizontal axis.
    """
    figure = Figure(figsize=(WIDTH, 2.5 if timing is None else 2.8), layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = _column(rows, "epoch")
    objective = {"bound_nats": {"color": BLUE, "label": "training objective"}}
    held_out = {"color": VERMILLION, "label": f"{split} ELBO"}
    quantities = {
        "bound (nats)": objective | {"elbo_nats": held_out},
        f"{split} rate (nats)": {"rate_nats": held_out},
        f"{split} distortion (nats)": {"distortion_nats": held_out},
    }
    for ax, (ylabel, styles) in zip(panels, quantities.items(), strict=True):
        for key, style in styles.items():
            _plot_finite(ax, epochs, _column(rows, key), **style)
        ax.set(xlabel="epoch", ylabel=ylabel)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        _set_limits(ax, [epochs], axis="x", robust=False)
        _set_limits(ax, [line.get_ydata() for line in ax.lines])
        if timing is not None:
            _add_clock(ax, epochs, timing)
    _legend_outside(figure, [line for line in panels[0].lines if len(line.get_xdata())])
    active = _column(rows, "active_units")
    if np.isfinite(active).any():
        last = active[np.isfinite(active)][-1]
        panels[1].text(0.97, 0.05, f"{last:.0f} active units", transform=panels[1].transAxes, ha="right")
    return figure


@_styled
def compare_runs(runs):
    """Held-out ELBO (nats) of many runs against steps and, where it is known, against seconds of training.

    runs: those of `vae.curves`, with "label". Runs of one label are seeds: thin lines, and their mean at the steps that
        all of them have, in a band of one standard error; seeds that diverged are not in the mean of finished ones.
    """
    groups = _by_label(runs)
    clocks = ["step"] + ["seconds"] * any(run.get("seconds") is not None for run in runs)
    width = WIDTH if len(clocks) == 2 else 0.7 * WIDTH
    figure = Figure(figsize=(width, 3.0 + 0.15 * max(0, len(groups) - 16)), layout="constrained")
    panels = figure.subplots(1, len(clocks), sharey=True, squeeze=False)[0]
    limits = _set_limits(panels[0], [_column(run["rows"], "elbo_nats") for run in runs])
    styles = list(itertools.product(("-", "--", ":", "-."), COLOURS))
    for ax, clock in zip(panels, clocks, strict=True):
        for (label, group), (dash, colour) in zip(groups.items(), itertools.cycle(styles), strict=False):
            label += curves.unseen(group, limits)  # a run that cannot be seen is named all the same
            timed = [run for run in group if clock == "step" or run.get("seconds") is not None]
            _plot_seeds(ax, timed, clock, label=label, color=colour, linestyle=dash)
        ax.set_xlabel({"step": "training step", "seconds": "training time (s)"}[clock])
        ends = [line.get_xdata()[-1] for line in ax.lines if len(line.get_xdata())]
        if clock == "seconds" and ends and max(ends) > 5 * min(ends) > 0:
            ax.set_xscale("log", nonpositive="mask")
    panels[0].set_ylabel("held-out ELBO (nats)")
    _legend_outside(figure, [line for line in panels[0].lines if not line.get_label().startswith("_")])
    return figure


@_styled
def rate_distortion(points):
    """Models in the rate-distortion plane (nats) over lines of equal ELBO = -(rate + distortion).

    points: dicts with "label", "rate_nats", "distortion_nats"; points of one label share a colour and a marker.
    """
    figure = Figure(figsize=(0.7 * WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.grid(False)
    styles = itertools.cycle(itertools.product("os^Dv", COLOURS))
    for (label, group), (marker, colour) in zip(_by_label(points).items(), styles, strict=False):
        place = _column(group, "rate_nats"), _column(group, "distortion_nats")
        ax.scatter(*place, s=28, color=colour, marker=marker, edgecolor="white", linewidth=0.5, label=label, zorder=3)
    rates, distortions = _column(points, "rate_nats"), _column(points, "distortion_nats")
    xlim = _set_limits(ax, [rates], axis="x", robust=False)
    ylim = _set_limits(ax, [distortions], robust=False)
    for elbo in MaxNLocator(6).tick_values(-xlim[1] - ylim[1], -xlim[0] - ylim[0]):
        _plot_equal_elbo(ax, elbo, np.stack([rates, distortions], axis=-1))
    ax.set(xlabel="rate (nats)", ylabel="distortion (nats)")
    _legend_outside(figure, ax.get_legend_handles_labels()[0])
    return figure


# Images


@_styled
def image_grid(images, columns=None):
    """Images [N, H, W, C] row by row, such as draws from the prior; about as high as wide unless `columns` is given."""
    images = _as_rgb(images)
    count, height, width, _ = images.shape
    columns = columns or min(count, math.ceil(math.sqrt(count * height / width)))
    return _show(_tile(images, columns, _gap(images)), side=min(height, width))[0]


@_styled
def reconstructions(x, x_hat):
    """Rows of data `x` above rows of their reconstructions `x_hat`, both [N, H, W, C]."""
    if np.shape(x) != np.shape(x_hat):
        raise ValueError(f"every image needs its reconstruction, got {np.shape(x)} and {np.shape(x_hat)}")
    x, x_hat = _as_rgb(x), _as_rgb(x_hat)
    count, height, width, _ = x.shape
    rows = math.ceil(count / np.clip(round(10 * height / width), 1, count))
    columns, gap = math.ceil(count / rows), _gap(x)
    pairs = np.concatenate([x, np.ones_like(x[:, :gap]), x_hat], axis=1)  # [N, 2 H + gap, W, 3]
    mosaic = _tile(pairs, columns, gap, row_gap=3 * gap)
    figure, ax = _show(mosaic, side=min(height, width), left=0.92)
    tops = np.arange(rows) * (pairs.shape[1] + 3 * gap) - 0.5
    ticks = np.concatenate([tops + height / 2, tops + height + gap + height / 2])
    ax.set_yticks(ticks, ["data"] * rows + ["reconstruction"] * rows)
    return figure


@_styled
def interpolations(images):
    """Walks through the latent space [rows, steps, H, W, C], left to right; the first and last images are data."""
    rows, steps = np.shape(images)[:2]
    images = _as_rgb(np.reshape(images, (rows * steps, *np.shape(images)[2:])))
    _, height, width, _ = images.shape
    gap = _gap(images)
    figure, ax = _show(_tile(images, steps, gap), side=min(height, width), top=0.22)
    for column in {0, steps - 1}:
        left, whole = column * (width + gap) - 0.5, rows * (height + gap) - gap
        ax.add_patch(Rectangle((left, -0.5), width, whole, fill=False, color=VERMILLION, linewidth=1.5, clip_on=False))
    centres = np.unique([0, steps - 1]) * (width + gap) + (width - 1) / 2
    ax.set_xticks(centres, ["data"] * len(centres))
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelcolor=VERMILLION)
    return figure


@_styled
def latent_plane(images, extent, means=None, labels=None, quantiles=False):
    """Images decoded over the plane of a two-dimensional latent and, beside them, where the posterior puts the data.

    images: [n, n, H, W, C]; images[i, j] is decoded from z_1 = grid[j], z_2 = grid[i], grid = linspace(*extent, n), as
        `meshgrid` orders it, so that z_2 points up.
    extent: (lo, hi) of both axes, values of z or, if `quantiles`, quantiles of the prior.
    means: posterior means [N, 2], as values of z; labels: their integer classes [N].
    """
    size = len(images)
    if np.shape(images)[:2] != (size, size):
        raise ValueError(f"latent_plane wants as many rows as columns, got images of shape {np.shape(images)}")
    tiles = _as_rgb(np.reshape(images[::-1], (size * size, *np.shape(images)[2:])))
    panels = 1 if means is None else 2
    figure = Figure(figsize=(WIDTH * panels / 2, WIDTH / 2 if panels == 1 else 0.45 * WIDTH), layout="constrained")
    mosaic_ax, *rest = figure.subplots(1, panels, squeeze=False)[0]
    half = (extent[1] - extent[0]) / max(size - 1, 1) / 2  # the ticks are at the images' centres
    edges = (extent[0] - half, extent[1] + half)
    mosaic_ax.imshow(_tile(tiles, size, 0), extent=(*edges, *edges), aspect=tiles.shape[1] / tiles.shape[2])
    mosaic_ax.grid(False)
    unit = " (prior quantile)" if quantiles else ""
    mosaic_ax.set(xlabel=f"$z_1${unit}", ylabel=f"$z_2${unit}")
    for ax in rest:
        _plot_means(ax, np.asarray(means), labels)
        ax.set(xlabel="posterior mean of $z_1$", ylabel="posterior mean of $z_2$")
    for axis in [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


# Parts of curves


def _column(rows, key):
    """One float per row, NaN where the key is absent or None."""
    return np.array([math.nan if row.get(key) is None else row[key] for row in rows], dtype=float)


def _by_label(items):
    """{label: items of that label}, in the order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(item["label"], []).append(item)
    return groups


def _plot_finite(ax, x, y, **style):
    """The points whose y is finite, marked while they are few."""
    finite = np.isfinite(y)
    ax.plot(x[finite], y[finite], marker="o" if len(x) <= 30 else None, markersize=2.5, **style)


def _plot_seeds(ax, runs, clock, label, **style):
    """The mean of the runs that `curves.together` chooses, in a band; of two runs or more also the line of each."""
    place = curves.CLOCKS.index(clock)
    if len(runs) > 1:
        for run in runs:
            ax.plot(*curves.line(run)[:, [place, -1]].T, alpha=0.4, **style | {"linewidth": 0.5})
    seeds = curves.together(runs)[..., [place, -1]]
    x, mean = seeds.mean(axis=0).T if len(seeds) else ([], [])
    if len(seeds) > 1:
        error = seeds[..., -1].std(axis=0, ddof=1) / math.sqrt(len(seeds))
        ax.fill_between(x, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(x, mean, label=label, **style)


def _set_limits(ax, lines, axis="y", robust=True):
    """The limits of `curves.limits`, where any value is finite."""
    if found := curves.limits(lines, robust):
        ax.set(**{f"{axis}lim": found})
    return getattr(ax, f"get_{axis}lim")()


def _plot_equal_elbo(ax, elbo, points):
    """The line rate + distortion = -elbo, named where it is farthest from the points [N, 2]."""
    rate = np.linspace(*ax.get_xlim(), 200)
    line = np.stack([rate, -elbo - rate], axis=-1)
    ax.plot(*line.T, color="#999999", linewidth=0.7, linestyle="--", zorder=1)
    low, high = np.transpose([ax.get_xlim(), ax.get_ylim()])
    line = line[np.all(np.abs((line - low) / (high - low) - 0.5) < 0.4, axis=-1)]  # the name is not to be clipped
    if len(line):
        away = np.linalg.norm((line[:, None] - points[np.isfinite(points).all(-1)]) / (high - low), axis=-1)
        text = f"ELBO {elbo:g}".replace("-", "\N{MINUS SIGN}")
        style = {"fontsize": 7, "color": "#666666", "ha": "center", "va": "center", "zorder": 2}
        slope = {"rotation": -45, "transform_rotates_text": True, "rotation_mode": "anchor"}
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(*line[away.min(axis=1, initial=np.inf).argmax()], text, bbox=background, **style, **slope)


def _add_clock(ax, epochs, seconds):
    """A second horizontal axis: the seconds of training at each epoch, 0 at the start, interpolated between rows."""
    seconds = np.asarray(seconds, dtype=float)
    if seconds.shape != epochs.shape:
        raise ValueError(f"timing is one number of seconds per row, got {seconds.shape} for {len(epochs)} rows")

    def name(epoch, _):
        elapsed = np.interp(epoch, [0, *epochs], [0, *seconds])
        return f"{elapsed:,.0f}" if elapsed >= 100 else f"{elapsed:.3g}"

    clock = ax.secondary_xaxis("top")
    clock.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    clock.xaxis.set_major_formatter(name)
    clock.set_xlabel("training time (s)")


def _legend_outside(figure, handles):
    """Above the panels in as many columns as fit or, for more than 8 entries, in one column on the right."""
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    if len(handles) > 8:
        figure.legend(handles=handles, loc="outside right upper")
    elif handles:
        rows = math.ceil(len(handles) / max(1, int(figure.get_figwidth() / (0.55 + 0.06 * longest))))
        figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))


# Parts of images


def _as_rgb(images):
    """[N, H, W, 1 or 3] -> [N, H, W, 3] in [0, 1]; NaN becomes vermillion, a line of pixels a strip one can see."""
    images = np.asarray(images, dtype=float)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"images are [N, H, W, C] with C = 1 or 3 and N > 0, got {images.shape}")
    images = np.broadcast_to(images, (*images.shape[:3], 3)).clip(0, 1)
    images = np.where(np.isnan(images), matplotlib.colors.to_rgb(VERMILLION), images)
    _, height, width, _ = images.shape
    if height == 1 or width == 1:
        images = images.repeat(max(1, width // 8), axis=1).repeat(max(1, height // 8), axis=2)
    return images


def _gap(images):
    """Pixels between images."""
    return max(1, round(0.06 * min(images.shape[1:3])))


def _tile(images, columns, gap, row_gap=None):
    """[N, H, W, 3] -> one image, row by row, with white gaps and white in place of what lacks in the last row."""
    count, height, width, _ = images.shape
    row_gap = gap if row_gap is None else row_gap
    rows = math.ceil(count / columns)
    tiles = np.ones((rows * columns, height + row_gap, width + gap, 3))
    tiles[:count, :height, :width] = images
    mosaic = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2).reshape(rows * tiles.shape[1], -1, 3)
    return mosaic[: mosaic.shape[0] - row_gap, : mosaic.shape[1] - gap]


def _show(mosaic, side, left=0, top=0):
    """The mosaic, at most a page large and `side` pixels at most an inch, with margins (inches) for labels; no axes."""
    height, width = mosaic.shape[:2]
    pad = 0.03
    inches = min((WIDTH - left - 2 * pad) / width, 8 / height, 1 / side)  # per pixel
    w, h = width * inches, height * inches
    across, up = w + left + 2 * pad, h + top + 2 * pad
    figure = Figure(figsize=(across, up))
    ax = figure.add_axes(((left + pad) / across, pad / up, w / across, h / up))
    ax.imshow(mosaic)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    return figure, ax


def _plot_means(ax, means, labels):
    """Posterior means [N, 2]; each class in a colour and marker of its own, named in a legend on the right."""
    classes = [None] if labels is None else np.unique(labels)
    styles = itertools.cycle(itertools.product("o^sD", COLOURS))
    for name, (marker, colour) in zip(classes, styles, strict=False):
        chosen = means if name is None else means[np.asarray(labels) == name]
        ax.scatter(*chosen.T, s=5, marker=marker, color=colour, alpha=0.7, linewidth=0, label=name, rasterized=True)
    for axis in "xy":
        _set_limits(ax, [means.ravel()], axis=axis, robust=False)
    ax.set_aspect("equal")
    if labels is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, handletextpad=0.1)
