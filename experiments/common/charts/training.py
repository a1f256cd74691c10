"""Charts of trained models: learning curves of one run, the bound of many runs, and the rate-distortion plane."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.common.charts import seed_curves
from experiments.common.charts.chart import Axis, Chart, Guide, Series, by_label, column, limits
from experiments.common.charts.styles import paper_label, styles
from experiments.common.comparison import VALIDATION, Comparison

# The look of the ring around chosen points: black, the last colour.
CHOSEN_STYLE = 6
# Two points are at the same place if they are nearer than this share of both axes: a third of a marker.
SAME_PLACE = 0.006
# Rings around a place; further rings would be as large as the last one.
MOST_RINGS = 4
# The largest number of models that the remark about a place names.
MOST_NAMES = 10
# Seeds whose curves are drawn; the mean is over all.
DRAWN_SEEDS = 20
# Learning curves with at most so many points are shown whole.
FEW_ROWS = 10
CLOCK_TITLES = {
    "step": "training step",
    "examples": "training examples",
    "evaluations": "evaluations of f",
    "seconds": "training time (s)",
}
ABOUT_STARS = "* biased according to its paper"


def learning(rows: list[dict[str, Any]], split: str) -> list[Chart]:
    """Three charts of one run against epochs, in nats: the bound, the rate and the distortion.

    Args:
      rows: The evaluations, dicts with "epoch", "elbo_nats", "rate_nats" and "distortion_nats" on `split`, and perhaps
        "bound_nats" (the mean of the training objective over the epoch) and "active_units". Values that are absent or
        not finite are left out.
      split: The name of the evaluated split.
    """
    epochs = column(rows, "epoch")
    x = Axis("epoch", limits=limits([epochs]))
    lines = {
        "bound (nats)": [("training objective", 0, "bound_nats"), (f"{split} ELBO", 1, "elbo_nats")],
        f"{split} rate (nats)": [(f"{split} ELBO", 1, "rate_nats")],
        f"{split} distortion (nats)": [(f"{split} ELBO", 1, "distortion_nats")],
    }
    charts = []
    for axis, series in lines.items():
        series = [Series(label, style, epochs, column(rows, key)) for label, style, key in series]
        finite = [one._replace(x=one.x[np.isfinite(one.y)], y=one.y[np.isfinite(one.y)]) for one in series]
        charts.append(
            Chart(finite, x, Axis(axis, limits=limits([one.y for one in finite], robust=len(rows) > FEW_ROWS)))
        )
    active = column(rows, "active_units")
    if np.isfinite(active).any():
        number = round(active[np.isfinite(active)][-1])
        charts[1] = charts[1]._replace(note=f"{number} active unit{'s' * (number != 1)}")
    return charts


def bound(runs: list[dict[str, Any]], clock: str) -> Chart:
    """The held-out ELBO (nats) of many runs against a clock.

    Runs with the same label are seeds of one setting. Their mean is drawn with one standard error, and the single seeds
    are drawn faintly behind it, at most 20 of them. If the mean is outside of the axes, the label says so.

    Args:
      runs: Runs as `charts.seed_curves` describes them, with "label". Runs whose clock is unknown are left out.
      clock: One of `seed_curves.CLOCKS`.
    """
    y_limits = limits([seed_curves.curve(run)[:, -1] for run in runs], robust=True)
    series = []
    groups = by_label(runs)
    for label, style in styles(groups).items():
        group = groups[label]
        reason = seed_curves.reason_unseen(group, y_limits) if y_limits else " (not finite)"
        series += _seeds_and_mean(_name(label) + reason, style, [run for run in group if _has_clock(run, clock)], clock)
    ends = [one.x[-1] for one in series if len(one.x)]
    spread = clock == "seconds" and bool(ends) and max(ends) > 5 * min(ends) > 0
    splits = sorted({row["split"] for run in runs for row in run["rows"] if "split" in row})
    y = Axis(f"{' and '.join(splits) or 'held-out'} ELBO (nats)", limits=y_limits)
    return Chart(series, Axis(CLOCK_TITLES[clock], "log" if spread else "linear"), y, note=_note(groups))


def known_clocks(runs: list[dict[str, Any]]) -> list[str]:
    """The clocks that are known at every evaluation of every run."""
    curves = [seed_curves.curve(run) for run in runs]
    is_known = lambda i: all(np.isfinite(curve[:, i]).all() for curve in curves)
    return [clock for i, clock in enumerate(seed_curves.CLOCKS) if is_known(i)]


def _has_clock(run: dict[str, Any], clock: str) -> bool:
    return clock != "seconds" or run.get("seconds") is not None


def _seeds_and_mean(label: str, style: int, runs: list[dict[str, Any]], clock: str) -> Iterator[Series]:
    place = seed_curves.CLOCKS.index(clock)
    if len(runs) > 1:
        for run in runs[:DRAWN_SEEDS]:
            x, y = seed_curves.curve(run)[:, [place, -1]].T
            yield Series(label, style, x, y, faint=True)
    averaged = seed_curves.curves_to_average(runs)[..., [place, -1]]
    number = f"{len(averaged)} of {len(runs)}" if len(averaged) < len(runs) else len(runs)
    remark = f"mean of {number} seeds" if len(runs) > 1 else ""
    if len(runs) > DRAWN_SEEDS:
        remark += f", {DRAWN_SEEDS} of them drawn"
    x, mean = averaged.mean(axis=0).T if len(averaged) else np.zeros((2, 0))
    low = high = None
    if len(averaged) > 1:
        error = averaged[..., -1].std(axis=0, ddof=1) / math.sqrt(len(averaged))
        low, high = mean - error, mean + error
    yield Series(label, style, x, mean, low, high, remark=remark)


def candidates(comparison: Comparison, name: str) -> Chart:
    """The mean validation bound (nats) of each value of the compared setting against another swept setting.

    If further settings are swept, each point is their best candidate. The intervals are one standard error over seeds.
    The last series are the candidates that validation chose.

    Args:
      name: One of `comparison.others`.
    """
    values = {candidate.settings[name] for choice in comparison.choices for candidate in choice.candidates}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    order = sorted(values) if numeric else list(dict.fromkeys(map(str, values)))
    place = (lambda value: value) if numeric else (lambda value: order.index(str(value)))
    series = []
    chosen = []
    looks = styles((choice.value for choice in comparison.choices), own_colours=True)
    for choice in comparison.choices:
        best: dict[float, tuple[float, float]] = {}
        for candidate in choice.candidates:
            mean, error = candidate.mean(VALIDATION) if candidate.is_complete else (math.nan, math.nan)
            x = place(candidate.settings[name])
            if x not in best or not mean <= best[x][0]:
                best[x] = mean, error
            if candidate is choice.chosen:
                chosen.append((x, mean))
        x = np.array(sorted(best), dtype=float)
        mean, error = np.array([best[one] for one in sorted(best)]).T
        series.append(Series(_name(choice.value), looks[choice.value], x, mean, mean - error, mean + error))
    x, mean = np.array(chosen, dtype=float).reshape(-1, 2).T
    series.append(Series("chosen by validation", CHOSEN_STYLE, x, mean, ring=True))
    positive = numeric and order[0] > 0 and order[-1] >= 4 * order[0]
    names = () if numeric else tuple(_name(value) if name == "estimator" else value for value in order)
    ends = [end for one in series for end in (one.y, one.low, one.high) if end is not None]
    axis = Axis(name.replace("_", " "), "log" if positive else "linear", ticks=tuple(order) * numeric, names=names)
    has_bars = any(np.isfinite(one.low).any() for one in series[:-1])
    estimators = [*looks, *(order if name == "estimator" else ())]
    note = _note(estimators, "bars: one standard error over seeds" if has_bars else "")
    return Chart(series, axis, Axis("validation ELBO (nats)", limits=limits(ends)), note=note)


def rate_distortion(points: list[dict[str, Any]]) -> Chart:
    """Trained models in the plane of rate and distortion (nats), with lines of equal ELBO = -(rate + distortion).

    A model whose marker would hide markers of other models is drawn as a ring around them.

    Args:
      points: One dict for each model, with "label", "rate_nats" and "distortion_nats", and perhaps "details" and
        "name", which distinguishes models with the same label.
    """
    groups = by_label(points)
    ordered = [point for group in groups.values() for point in group]
    rate, distortion = column(ordered, "rate_nats"), column(ordered, "distortion_nats")
    x = Axis("rate, KL(q(z|x) || p(z)) (nats)", limits=limits([rate]))
    y = Axis("distortion, \N{MINUS SIGN}E log p(x|z) (nats)", limits=limits([distortion]))
    if x.limits is None or y.limits is None:
        return Chart([], x, y)
    near = (_distances(rate, x.limits) < SAME_PLACE) & (_distances(distortion, y.limits) < SAME_PLACE)
    hidden = np.tril(near, -1).sum(axis=1).clip(max=MOST_RINGS)
    names = [", ".join(filter(None, (_name(point["label"]), point.get("name")))) for point in ordered]
    series = []
    for label, style in styles(groups).items():
        mine = [i for i, point in enumerate(ordered) if point["label"] == label]
        details = tuple(ordered[i].get("details") for i in mine)
        remarks = tuple(_others([names[j] for j in np.flatnonzero(near[i]) if j != i]) for i in mine)
        common = {"details": details, "hidden": hidden[mine], "remarks": remarks}
        series.append(Series(_name(label), style, rate[mine], distortion[mine], **common))
    note = _note(groups, "a ring: one more run at the same place" if hidden.any() else "")
    return Chart(series, x, y, tuple(_equal_elbo(x.limits, y.limits)), note)


def _name(label: str) -> str:
    return paper_label(label, star=True)


def _note(labels: Iterable[str], remark: str = "") -> str:
    """The remark, and what a star means if any of the labels has one."""
    has_star = any(_name(label) != paper_label(label) for label in labels)
    return "; ".join(filter(None, (remark, ABOUT_STARS * has_star)))


def _distances(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """The distances of all pairs of values, as shares of an axis between these ends."""
    return np.abs(values[:, None] - values) / (ends[1] - ends[0])


def _others(names: list[str]) -> str:
    """The names of other models at the place of a model, one on each line."""
    rest = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return "\n".join(["at the same place:", *names[:MOST_NAMES], *rest]) if names else ""


def _equal_elbo(x_limits: tuple[float, float], y_limits: tuple[float, float]) -> Iterator[Guide]:
    """About six lines of equal ELBO across the plane, at round values of the ELBO."""
    left, right = x_limits
    low, high = y_limits
    step = _round_below((right - left + high - low) / 6)
    digits = max(0, -math.floor(math.log10(step)))
    for n in range(math.ceil((left + low) / step), math.floor((right + high) / step) + 1):
        total = n * step  # rate + distortion
        if left + low < total < right + high:
            ends = np.array([max(left, total - high), min(right, total - low)])
            name = f"ELBO {0.0 - total:.{digits}f}".replace("-", "\N{MINUS SIGN}")
            yield Guide("equal elbo", ends, total - ends, name)


def _round_below(size: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(step * power for step in (5, 2, 1) if step * power <= size)
