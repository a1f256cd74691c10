"""The report's interactive charts: rows in, figures of plotly.js out, as plain dicts.

A chart is {"data", "layout"} of plotly's schema and "choices", what its buttons offer: {"label", "title", "x"}, the
title and the values of the horizontal axis, a list for each trace, which then has none itself. Colours are names, "@0"
to "@6" of series, "@muted", "@grid" and "@paper", which the page's script replaces by the values of its style sheet,
light or dark.
"""

import math
import statistics
from collections import defaultdict
from itertools import cycle, product
from typing import Any

import numpy as np

from experiments.common import curves
from experiments.common.results import mean_and_error
from experiments.report.contents import Contents, Laboratory, Toy

Chart = dict[str, Any]

COLOURS = [f"@{i}" for i in range(7)]
# After seven series the colours come again, with another dash and another symbol.
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
STYLES = [(dash, symbol, colour) for (dash, symbol), colour in product(zip(DASHES, SYMBOLS, strict=True), COLOURS)]
# Names in a legend, best first; the others speak when they are touched.
NAMED = 24
TITLES = {
    "step": "steps",
    "examples": "examples",
    "seconds": "seconds of training",
    "flops": "FLOP of one gradient",
    "num_samples": "K, samples",
    "cost_parameter": "k, parameter of the cost",
    "epoch": "epoch of the checkpoint",
}


def bound(contents: Contents, every: int = 1) -> Chart | None:
    """The evaluated ELBO against steps, examples and seconds: each seed a thin line, their mean a thick one. Of so many
    points, counted from the last, `every` shows one."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for label, runs in contents.by_label().items():
        seeds = [{"rows": run.rows, "seconds": run.seconds, "status": run.row.get("status")} for run in runs]
        settings[label] = [seed for seed in seeds if seed["rows"]]
    limits = curves.limits([curves.line(run)[:, -1] for runs in settings.values() for run in runs])
    if limits is None:
        return None
    data, lines = [], []
    for i, ((label, runs), (dash, _, colour)) in enumerate(zip(settings.items(), cycle(STYLES))):
        if not runs:
            continue
        style = {"color": colour, "dash": dash}
        thin = {"mode": "lines", "line": style | {"width": 1}, "opacity": 0.35, "hoverinfo": "skip"}
        seeds = [curves.line(run) for run in runs] if len(runs) > 1 else []
        data += [{"showlegend": False, "legendgroup": _plain(label)} | thin for _ in seeds]
        together, unseen = curves.together(runs), curves.unseen(runs, limits)
        number = f"{len(together)} of {len(runs)}" if len(together) < len(runs) else len(runs)
        of = f" (mean of {number} seeds)" if seeds else ""
        hover = f"%{{y:.2f}} nats at %{{x:,.4~g}}<extra>{_plain(label)}{of}</extra>"
        thick = {"mode": "lines+markers", "line": style | {"width": 2}, "marker": {"size": 4, "color": colour}}
        shown = i < NAMED or bool(unseen)  # what cannot be touched is named
        named = {"name": _plain(label) + unseen, "legendgroup": _plain(label), "showlegend": shown}
        data.append({"hovertemplate": hover} | named | thick)
        lines += [line[(len(line) - 1) % every :: every] for line in (*seeds, together.mean(axis=0))]
    for trace, line in zip(data, lines, strict=True):
        trace["y"] = _values(line[:, -1])
    splits = " and ".join(sorted({row["split"] for runs in settings.values() for run in runs for row in run["rows"]}))
    layout = {"yaxis": {"title": {"text": f"ELBO, {splits} (nats)"}, "range": list(limits)}}
    choices = [
        {"label": clock, "title": TITLES[clock], "x": [_values(line[:, n]) for line in lines]}
        for n, clock in enumerate(curves.CLOCKS)
        if all(np.isfinite(line[:, n]).all() for line in lines)
    ]
    return _chart(data, layout, choices)


def rate_distortion(contents: Contents) -> Chart | None:
    """Rate and distortion of every finished run; grey lines have equal ELBO."""
    data, ends = [], []
    for (label, runs), (_, symbol, colour) in zip(contents.by_label().items(), cycle(STYLES)):
        rows = [run.row for run in runs if run.row.get("status") == "done"]
        rows = [row for row in rows if math.isfinite(row["test_rate_nats"] + row["test_distortion_nats"])]
        if not rows:
            continue
        x, y = _column(rows, "test_rate_nats"), _column(rows, "test_distortion_nats")
        ends += zip(x, y, strict=True)
        hover = "rate %{x:.2f}, distortion %{y:.2f}, ELBO %{customdata[0]:.2f} nats<br>seed %{customdata[1]}"
        data.append(
            {"x": x, "y": y, "mode": "markers", "name": _plain(label), "showlegend": len(data) < NAMED}
            | {"marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"color": "@paper", "width": 1}}}
            | {"customdata": [[row["test_elbo_nats"], row["seed"]] for row in rows]}
            | {"hovertemplate": f"{hover}<extra>{_plain(label)}</extra>"}
        )
    if not data:
        return None
    (left, right), (low, high) = (_padded(values) for values in zip(*ends, strict=True))
    elbos = sorted(-(x + y) for x, y in ends)
    every = _round_step((right - left + high - low) / 6)
    contours = []
    for n in range(math.floor((elbos[0] - (high - low)) / every), math.ceil((elbos[-1] + (right - left)) / every) + 1):
        total = -n * every  # rate + distortion
        if left + low < total < right + high:
            contours.append({"x": [left, right], "y": [total - left, total - right], "mode": "lines"})
            contours[-1] |= {"line": {"color": "@grid", "width": 1}, "showlegend": False, "hoverinfo": "skip"}
    layout = {
        "xaxis": {"title": {"text": "rate, KL(q(z|x) || p(z)) (nats)"}, "range": [left, right]},
        "yaxis": {"title": {"text": "distortion, -E log p(x|z) (nats)"}, "range": [low, high]},
        "annotations": [_note(f"grey: equal ELBO, every {every:g} nats")],
    }
    return _chart(contours + data, layout)


def variance_against_cost(rows: list[dict[str, Any]], group: str) -> Chart | None:
    """Variance of the gradient with its interval against FLOP and seconds, of one point; hollow: biased."""
    data, names = [], list(dict.fromkeys(row["estimator"] for row in rows))
    axes = {"flops": [], "seconds": []}
    styles = dict(zip(names, cycle(STYLES)))
    for name in names:
        mine = [r for r in rows if r["estimator"] == name and r[f"{group}_variance"] > 0 and r["flops"] > 0]
        if not mine:
            continue
        _, symbol, colour = styles[name]
        hollow = any(row[f"{group}_biased"] for row in mine)
        hover = "variance %{y:.3g}<br>%{x:.3s} (K = %{customdata})"
        data.append(
            {"y": _column(mine, f"{group}_variance"), "error_y": _reach(mine, f"{group}_variance", colour)}
            | {"customdata": _column(mine, "num_samples"), "hovertemplate": f"{hover}<extra>{_plain(name)}</extra>"}
            | {"mode": "lines+markers" if len(mine) > 1 else "markers", "name": _plain(name), "line": {"color": colour}}
            | {"marker": {"color": colour, "symbol": symbol + ("-open" if hollow else ""), "size": 9}}
        )
        for key, columns in axes.items():
            columns.append(_column(mine, key))
    if not data:
        return None
    layout = {"xaxis": {"type": "log"}, "yaxis": {"type": "log", "title": {"text": f"{_plain(group)}: variance"}}}
    if any("-open" in trace["marker"]["symbol"] for trace in data):
        layout["annotations"] = [_note("hollow: found biased")]
    titles = {"flops": "FLOP", "seconds": "time"}
    choices = [{"label": titles[k], "title": f"{titles[k]} of one gradient", "x": x} for k, x in axes.items()]
    return _chart(data, layout, choices)


def bias(rows: list[dict[str, Any]], group: str, confidence: float) -> Chart | None:
    """Bias along the true gradient in percent of its norm, with intervals."""
    rows = [row for row in rows if math.isfinite(row[f"{group}_bias"] + row[f"{group}_bias_stderr"])][::-1]
    if not rows:
        return None
    labels, data = _labels(rows), []
    # Of results that were written before intervals were: the normal's.
    reach = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    ends = [row.get(f"{group}_bias_high", row[f"{group}_bias"] + reach * row[f"{group}_bias_stderr"]) for row in rows]
    for biased, name in ((False, "as chance allows"), (True, "biased")):
        chosen = [i for i, row in enumerate(rows) if bool(row[f"{group}_biased"]) == biased]
        if not chosen:
            continue
        colour = "@1" if biased else "@0"
        reaches = [100 * (ends[i] - rows[i][f"{group}_bias"]) for i in chosen]
        error = {"type": "data", "array": reaches, "color": colour}
        worst = [[rows[i][f"{group}_max_abs_z"], rows[i][f"{group}_critical_z"]] for i in chosen]
        hover = "%{x:.2f} ± %{error_x.array:.2f} %<br>largest |z| %{customdata[0]:.2f}, chance %{customdata[1]:.2f}"
        data.append(
            {"x": [100 * rows[i][f"{group}_bias"] for i in chosen], "y": [_plain(labels[i]) for i in chosen]}
            | {"mode": "markers", "name": name, "customdata": worst, "error_x": error | {"thickness": 1.2, "width": 3}}
            | {"marker": {"color": colour, "size": 8, "symbol": "square" if biased else "circle-open"}}
            | {"hovertemplate": f"{hover}<extra>%{{y}}</extra>"}
        )
    layout = {
        "xaxis": {
            "title": {"text": f"{_plain(group)}: bias along the truth (%)"},
            "zeroline": True,
            "zerolinecolor": "@muted",
        },
        "yaxis": {"type": "category", "categoryarray": [_plain(l) for l in labels], "tickfont": {"size": 11}},
        "height": 120 + 22 * len(rows),
    }
    return _chart(data, layout)


def against(laboratory: Laboratory, group: str, x: str, figure: str) -> Chart | None:
    """A figure with its interval against K, at the last point, or against the point; a line for each estimator."""
    rows, key = laboratory.rows, f"{group}_{figure}"
    if x == "num_samples" and laboratory.point:
        last = max(row[laboratory.point] for row in rows)
        rows = [row for row in rows if row[laboratory.point] == last]
    rows = [row for row in rows if row[key] > 0 and math.isfinite(row[key])]
    if not rows:
        return None
    data, labels = [], [row["estimator"] for row in rows] if x == "num_samples" else _labels(rows)
    for name, (dash, symbol, colour) in zip(dict.fromkeys(labels), cycle(STYLES)):
        mine = [row for row, label in zip(rows, labels, strict=True) if label == name]
        mine.sort(key=lambda row: row[x])
        data.append(
            {"x": _column(mine, x), "y": _column(mine, key), "mode": "lines+markers"}
            | {"error_y": _reach(mine, key, colour), "name": _plain(name)}
            | {"line": {"color": colour, "dash": dash, "width": 1.6}, "marker": {"symbol": symbol, "size": 6}}
            | {"hovertemplate": f"%{{y:.3g}} at %{{x:.4~g}}<extra>{_plain(name)}</extra>"}
        )
    places = sorted(set(_column(rows, x)))
    steps = [b - a for a, b in zip(places, places[1:], strict=False)]
    even = len(steps) > 1 and max(steps) - min(steps) < 1e-6 * max(steps)  # epochs
    spread = places[0] > 0 and places[-1] > 8 * places[0] and not even
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": [f"{place:g}" for place in places]}
    title = {"snr": "signal-to-noise ratio", "variance": "variance"}[figure]
    layout = {
        "xaxis": {"title": {"text": TITLES.get(x, _plain(x))}, "type": "log" if spread else "linear"}
        | (ticks if len(places) <= 10 else {}),
        "yaxis": {"title": {"text": f"{_plain(group)}: {title}"}, "type": "log"},
    }
    return _chart(data, layout)


def toy(toy: Toy, point: str, figure: str) -> Chart | None:
    """The loss or the gradient's variance against steps, mean over seeds, at one point; a dash for each family of
    estimators, a colour for each of its members."""
    families, dashes = toy_families(toy), toy_dashes(toy)
    columns: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in toy.curves:
        if row["point"] == point:
            columns[row["estimator"]][row["step"]].append(row[figure])
    values = (value for steps in columns.values() for values in steps.values() for value in values)
    top = max(filter(math.isfinite, values), default=0)
    data = []
    for row in toy.rows:
        if row["point"] != point:
            continue
        name, family, steps = row["estimator"], row["family"], columns[row["estimator"]]
        means = [mean_and_error(values)[0] for values in steps.values()]
        if figure == "variance":  # what is but float32's rounding is not drawn
            means = [mean if mean > 1e-11 * top else None for mean in means]
        colour = COLOURS[families[family].index(name) % len(COLOURS)]
        data.append(
            {"x": list(steps), "y": means, "mode": "lines", "name": _plain(name)}
            | {"line": {"color": colour, "dash": dashes[family], "width": 1.8}}
            | {"hovertemplate": f"%{{y:.4~g}} at step %{{x}}<extra>{_plain(name)} ({_plain(family)})</extra>"}
        )
    title = {"loss": "expected loss", "variance": "variance of the gradient"}[figure]
    layout = {"xaxis": {"title": {"text": TITLES["step"]}}, "yaxis": {"title": {"text": title}}}
    if figure == "variance":
        layout["yaxis"]["type"] = "log"
    return _chart(data, layout)


def toy_families(toy: Toy) -> dict[str, list[str]]:
    """The estimators of each family."""
    families: dict[str, list[str]] = {}
    for name, family in sorted({(row["estimator"], row["family"]) for row in toy.rows}):
        families.setdefault(family, []).append(name)
    return families


def toy_dashes(toy: Toy) -> dict[str, str]:
    """How the curves of each family are dashed."""
    return dict(zip(toy_families(toy), cycle(DASHES)))


def _chart(data: list[dict], layout: dict[str, Any], choices: list[dict[str, Any]] | None = None) -> Chart:
    return {"data": [{"type": "scatter", **trace} for trace in data], "layout": layout, "choices": choices or []}


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """The estimators' names, with K where one is there with several."""
    several = len({(row["estimator"], row["num_samples"]) for row in rows}) > len({row["estimator"] for row in rows})
    return [row["estimator"] + (f", K={row['num_samples']}" if several else "") for row in rows]


def _values(column: np.ndarray) -> list[float | None]:
    """Those of a line; of none, a gap, since plotly's legend leaves out what is empty."""
    return column.tolist() or [None]


def _column(rows: list[dict[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]


def _reach(rows: list[dict[str, Any]], key: str, colour: str) -> dict[str, Any]:
    """Error bars from the ends of the rows' intervals."""
    ends = [(row[key] - row[f"{key}_low"], row[f"{key}_high"] - row[key]) for row in rows]
    down, up = ([max(0.0, end) if math.isfinite(end) else 0.0 for end in side] for side in zip(*ends, strict=True))
    style = {"color": colour, "thickness": 1.2, "width": 3}
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down} | style


def _padded(values) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.15 * (high - low) or 0.5
    return low - pad, high + pad


def _round_step(size: float) -> float:
    """The 1, 2 or 5 times a power of ten that is nearest below."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(step * power for step in (5, 2, 1) if step * power <= size)


def _note(text: str) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False, "font": {"size": 11, "color": "@muted"}}


def _plain(text: str) -> str:
    """As plotly's text, which reads some tags and %{...}."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")
