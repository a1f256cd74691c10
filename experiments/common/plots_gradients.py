"""The laboratory's pictures: rows of numbers in, a matplotlib `Figure` out, to be written by `vae.plots.save`.

A row is a dict of one estimator: "estimator", "label", "num_samples", "flops", "seconds" and, for each group g of
parameters, f"{g}_{figure}" with f"{g}_{figure}_low" and _high, the ends of its interval. One panel a group.
"""

import itertools
import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from experiments.common.plots import COLOURS, VERMILLION, WIDTH, _legend_outside, _styled

GREY = "#777777"
SLOPES = "slopes +1/2 and \N{MINUS SIGN}1/2"
TITLES = {
    "snr": "signal-to-noise ratio",
    "dsnr": "directional signal-to-noise ratio",
    "variance": "variance",
    "num_samples": "number of samples $K$",
    "cost_parameter": "parameter $k$ of the cost",
    "epoch": "epoch of the checkpoint",
}


@_styled
def bias_forest(rows, groups):
    """Bias along the true gradient, in percent of its norm, with intervals; beside it the largest |z|.

    Vermillion and a filled square: biased, by either; an open circle: what is expected of chance.
    """
    figure = Figure(figsize=(WIDTH, 1.05 + 0.19 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2 * len(groups), sharey=True, squeeze=False, width_ratios=[3, 2] * len(groups))[0]
    places = np.arange(len(rows))[::-1]
    for g, (along, worst) in zip(groups, panels.reshape(-1, 2), strict=True):
        for row, y in zip(rows, places, strict=True):
            biased = bool(row[f"{g}_biased"])
            style = {"marker": "s" if biased else "o", "markersize": 4, "color": VERMILLION if biased else COLOURS[0]}
            style |= {"markerfacecolor": style["color"] if biased else "white", "linewidth": 1.1}
            bias, error = 100 * row[f"{g}_bias"], 100 * (row[f"{g}_bias_high"] - row[f"{g}_bias"])
            if math.isfinite(bias) and math.isfinite(error):
                along.errorbar(bias, y, xerr=error, capsize=2, **style)
            critical = row[f"{g}_critical_z"]
            worst.plot(row[f"{g}_max_abs_z"], y, linestyle="none", **style)
            worst.plot([critical, critical], [y - 0.4, y + 0.4], color=GREY, linewidth=1.2)
        along.axvline(0, color=GREY, linewidth=0.8, zorder=0)
        along.set_xlabel("bias along truth (%)")
        along.set_title(g, loc="left", fontsize=8.5)
        worst.set_xlabel("largest |z|")
        largest = np.nanmax([[row[f"{g}_max_abs_z"], row[f"{g}_critical_z"]] for row in rows])
        worst.set_xlim(0, 1.08 * largest)
        if largest > 40:
            worst.set_xscale("symlog", linthresh=10)
            worst.xaxis.set_major_locator(LogLocator(numticks=4))
    panels[0].set_yticks(places, [_marked(row) for row in rows])
    panels[0].set_ylim(-0.7, len(rows) - 0.3)
    for ax in panels:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    truths = list(dict.fromkeys(row["truth"] for row in rows))
    text = f"truth: {truths[0]}" + (" (and for each other K)" if len(truths) > 1 else "")
    handles = [
        Line2D([], [], color=COLOURS[0], marker="o", markersize=4, markerfacecolor="white", label="as chance allows"),
        Line2D([], [], color=VERMILLION, marker="s", markersize=4, label="biased"),
        Line2D(
            [], [], color=GREY, marker="|", markersize=8, linestyle="none", label="|z| that chance exceeds in 0.01 %"
        ),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, title=text, title_fontsize=8)
    return figure


@_styled
def variance_against_cost(rows, groups):
    """Variance against FLOP and against time of one gradient; the Pareto front, and lines of equal variance x cost."""
    costs = {"flops": "FLOP per gradient", "seconds": "time per gradient (s)"}
    figure = Figure(figsize=(WIDTH, 0.5 + 2.45 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False, sharex="col", sharey="row")
    styles = _styles(rows)
    for line, g in zip(panels, groups, strict=True):
        for ax, key in zip(line, costs, strict=True):
            cost, variance = (np.array([row[name] for row in rows], float) for name in (key, f"{g}_variance"))
            shown = (cost > 0) & (variance > 0) & np.isfinite(variance)
            ax.set(xscale="log", yscale="log")
            for name, (colour, marker) in styles.items():
                mine = [i for i, row in enumerate(rows) if row["estimator"] == name and shown[i]]
                mine.sort(key=lambda i: cost[i])
                ends = np.array([[rows[i][f"{g}_variance_low"], rows[i][f"{g}_variance_high"]] for i in mine])
                fill = "white" if any(rows[i][f"{g}_biased"] for i in mine) else colour
                style = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": fill, "linewidth": 0.9}
                if mine:
                    reach = np.abs(ends.T - variance[mine])
                    ax.errorbar(cost[mine], variance[mine], yerr=reach, capsize=2, zorder=3, **style)
            _limits(ax, cost[shown], variance[shown])
            for axis in (ax.xaxis, ax.yaxis):
                _plain_ticks(axis)
            _front(ax, cost[shown], variance[shown], [not rows[i][f"{g}_biased"] for i in np.flatnonzero(shown)])
            _equal_products(ax)
        line[0].set_ylabel(f"{g}: variance")
    for ax, label in zip(panels[-1], costs.values(), strict=True):
        ax.set_xlabel(label)
    handles = [
        Line2D([], [], color=c, marker=m, markersize=5, linewidth=0.9, label=name) for name, (c, m) in styles.items()
    ]
    handles += [Line2D([], [], color="black", linewidth=1, linestyle="--", label="Pareto front")]
    handles += [Line2D([], [], color="#BBBBBB", linewidth=0.8, label="equal variance x cost".replace(" x ", " × "))]
    if any(row[f"{g}_biased"] for row in rows for g in groups):
        hollow = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "none"}
        handles += [Line2D([], [], color=GREY, label="hollow: biased", **hollow)]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@_styled
def against(rows, groups, x, figure_name, by="estimator"):
    """A figure (its `TITLES` name) against x = row[x], one line for each row[by]; both logarithmic where positive, but
    for an x in even steps, such as epochs.

    Bands are intervals. For the signal-to-noise ratio against K, dotted lines have the slopes +1/2 and -1/2.
    """
    columns = min(len(groups), 2)
    lines = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.7 * WIDTH, 0.6 + 2.3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    styles = _styles(rows, by)
    for ax, g in zip(panels, groups, strict=False):
        for name, (colour, marker) in styles.items():
            mine = sorted((row for row in rows if row[by] == name), key=lambda row: row[x])
            place, value, low, high = (
                np.array([row.get(key, math.nan) for row in mine], float)
                for key in (x, *(f"{g}_{figure_name}{end}" for end in ("", "_low", "_high")))
            )
            ax.plot(place, value, color=colour, marker=marker, markersize=3.5, linewidth=1.1, label=name)
            ax.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
        places = sorted({row[x] for row in rows})
        if places[0] > 0 and not _even(places):
            ax.set_xscale("log", base=2 if x == "num_samples" else 10)
            if len(places) <= 8:
                ax.xaxis.set_major_locator(NullLocator())
                ax.set_xticks(places, [f"{p:g}" for p in places])
                ax.xaxis.set_minor_locator(NullLocator())
        values = np.array([row[f"{g}_{figure_name}"] for row in rows], float)
        if (values[np.isfinite(values)] > 0).all():
            ax.set_yscale("log")
        if x == "num_samples" and figure_name == "snr":
            _slopes(ax, rows, values)
        if ax.get_yscale() == "log":
            _plain_ticks(ax.yaxis)
        ax.set(xlabel=TITLES.get(x, x), ylabel=f"{g}: {TITLES[figure_name]}")
    for ax in list(panels):
        ax.remove()
    names = [*styles, SLOPES]
    handles = {line.get_label(): line for line in figure.axes[0].lines if line.get_label() in names}
    _legend_outside(figure, list(handles.values()))
    return figure


@_styled
def toy_curves(steps, curves, titles, families):
    """Loss and variance of the gradient against steps, a column for each family of estimators and two rows for each
    point of a toy problem; in grey the losses of the other families.

    curves: {name: {"loss", "variance"}}, each `[points, seeds, steps]`; drawn is the mean over seeds, of variances
        where it is more than float32's rounding. titles: one a point. families: {title: names}, which hold every curve.
    """
    count = len(titles)
    figure = Figure(figsize=(WIDTH + 1.2, 1.1 + 2.3 * count), layout="constrained")
    heights = [0.75, *[1] * 2 * count]
    keys, *panels = figure.subplots(
        1 + 2 * count, len(families), sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    for column, (family, names) in enumerate(families.items()):
        looks = _styles([{"estimator": name} for name in names])
        for i in range(count):
            loss, variance = panels[i][column], panels[count + i][column]
            rounding = 1e-11 * max(np.max(curve["variance"][i]) for curve in curves.values())
            for name in curves.keys() - looks.keys():
                loss.plot(steps, curves[name]["loss"][i].mean(axis=0), color="#DDDDDD", linewidth=0.7, zorder=1)
            every = max(len(looks), len(steps) // 6)
            for place, (name, (colour, marker)) in enumerate(looks.items()):
                style = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.1}
                style |= {"markevery": (place * every // len(looks), every)}  # side by side where curves are one
                loss.plot(steps, curves[name]["loss"][i].mean(axis=0), **style)
                spread = curves[name]["variance"][i].mean(axis=0)
                variance.plot(steps, np.where(spread > rounding, spread, np.nan), **style)
            variance.set_yscale("log")
            loss.ticklabel_format(axis="y", useOffset=False)
        panels[-1][column].set_xlabel("step")
        keys[column].axis("off")
        handles = [
            Line2D([], [], color=c, marker=m, markersize=4, linewidth=1.1, label=n) for n, (c, m) in looks.items()
        ]
        corner = {"loc": "upper left", "bbox_to_anchor": (-0.05, 1), "alignment": "left", "borderpad": 0}
        keys[column].legend(handles=handles, title=family, title_fontproperties={"weight": "bold"}, **corner)
    for i, title in enumerate(titles):
        panels[i][0].set_ylabel(f"expected loss\n{title}")
        panels[count + i][0].set_ylabel(f"variance\n{title}")
    return figure


def _even(places):
    """Whether three or more places are in even steps."""
    steps = np.diff(places)
    return len(places) > 2 and bool(np.allclose(steps, steps[0]))


def _styles(rows, by="estimator"):
    """{name: (colour, marker)}; a marker more for every round of the colours."""
    names = list(dict.fromkeys(row[by] for row in rows))
    colours, markers = itertools.cycle(COLOURS), itertools.cycle("os^Dv<>P")
    return {name: (c, m) for name, c, m in zip(names, colours, markers, strict=False)}


def _marked(row):
    return row["label"] + (" *" if row["declared_biased"] else "")


def _limits(ax, cost, variance):
    """Air around the points on logarithmic axes of a decade at the least."""
    for axis, values in (("x", cost), ("y", variance)):
        if len(values):
            low, high = math.log10(values.min()), math.log10(values.max())
            air = max(0.12 * (high - low), (1 - (high - low)) / 2, 0.15)
            ax.set(**{f"{axis}lim": (10 ** (low - air), 10 ** (high + air))})


def _front(ax, cost, variance, sound):
    """What no unbiased estimator beats in both: a staircase to the panel's edges."""
    points = sorted((c, v) for c, v, ok in zip(cost, variance, sound, strict=True) if ok)
    front = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
    if front:
        xs, ys = zip(*front, strict=True)
        (_, right), (_, top) = ax.get_xlim(), ax.get_ylim()
        ax.step([xs[0], *xs, right], [top, *ys, ys[-1]], where="post", color="black", linestyle="--", linewidth=1)


def _equal_products(ax):
    """A line for every decade of variance x cost."""
    x, y = (np.log10(limits) for limits in (ax.get_xlim(), ax.get_ylim()))
    ax.grid(False)
    for product in range(math.ceil(x[0] + y[0]), math.floor(x[1] + y[1]) + 1):
        ax.plot(10 ** np.array(x), 10 ** (product - np.array(x)), color="#DDDDDD", linewidth=0.7, zorder=0)
    ax.set(xlim=10**x, ylim=10**y)


def _slopes(ax, rows, values):
    """Dotted lines of slopes 1/2 and -1/2 through the middle of the panel."""
    samples = np.array(sorted({row["num_samples"] for row in rows}), float)
    limits = ax.get_ylim()
    middle = math.exp(np.nanmean(np.log(values[values > 0])))
    for power in (0.5, -0.5):
        centre = math.sqrt(samples[0] * samples[-1])
        ax.plot(
            samples,
            middle * (samples / centre) ** power,
            color=GREY,
            linestyle=":",
            linewidth=1,
            zorder=1,
            label=SLOPES,
        )
    ax.set_ylim(limits)


def _plain_ticks(axis):
    """Plain numbers on a logarithmic axis of less than two decades."""
    low, high = axis.get_view_interval()
    if high >= 100 * low or low <= 0:
        return
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), np.arange(1, 10, 0.5), np.arange(1, 10, 0.1)):
        places = [d * 10.0**n for n in decades for d in digits if low <= d * 10.0**n <= high]
        if len(places) >= 3:
            break
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    if 1e-3 <= low and high < 1e5:
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    else:
        axis.set_major_formatter(FuncFormatter(_power))


def _power(value, _):
    digits, exponent = f"{value:.1e}".split("e")
    digits = f"{float(digits):g}"
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if digits == "1" else rf"${digits}\times{power}$"
