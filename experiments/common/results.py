"""Tables of finished runs: one row each with every setting, and the aggregate over seeds, best first."""

import math
import statistics
from typing import Any

from experiments.common import tables
from experiments.common.settings import FIELDS

FIGURES = {
    "test_nll_nats": "-log p(x)",
    "test_elbo_nats": "ELBO",
    "test_rate_nats": "rate",
    "test_distortion_nats": "distortion",
    "test_bits_per_dim": "bits/dim",
    "active_units": "active units",
}
# What rows may be ordered by, and how a heading calls it.
RANKINGS = {
    "validation_elbo_nats": "validation bound",
    "test_nll_nats": "test set's -log p(x)",
    "test_elbo_nats": "test set's ELBO (-log p(x) is of several K)",
}


def varying(results: list[dict[str, Any]]) -> list[str]:
    """The settings, but the seed, in which the runs differ; and their workdirs, where rows have one."""
    names = [name for name in (*FIELDS, "workdir") if name != "seed"]
    return [name for name in names if len({str(r.get(name)) for r in results}) > 1]


def label(row: dict[str, Any], names: list[str]) -> str:
    """What distinguishes a row's settings from those of other rows, `names` being those in which they differ."""
    if not names:
        return f"{row['dataset']}, {row['estimator']}"
    speaking = ("estimator", "objective") if len(names) > 1 else ("workdir", *FIELDS)
    return ", ".join(
        str(row[name]) if name in speaking and isinstance(row[name], str) else f"{name}={row[name]}" for name in names
    )


def aggregate(results: list[dict[str, Any]], names: list[str] | None = None) -> list[dict[str, Any]]:
    """One row for all seeds of a setting: means and, behind `_se`, standard errors; best first.

    The order is by the figure of `ranked_by`. `names` are those of the settings that distinguish rows, by default all
    that vary.
    """
    names = varying(results) if names is None else names
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(tuple(str(result[name]) for name in names), []).append(result)
    rows = []
    for members in groups.values():
        finished = [m for m in members if m["status"] == "done"]
        row = {name: members[0][name] for name in names}
        row |= {"runs": len(members), "diverged": len(members) - len(finished)}
        for key in [*FIGURES, "validation_elbo_nats"]:
            values = [m[key] for m in finished if m.get(key) is not None]
            if values:
                row[key], row[f"{key}_se"] = mean_and_error(values)
        depths = {m.get("active_units_by_layer", "").count("+") for m in finished}
        if len(depths) == 1 and 0 not in depths:
            row["active_units_by_layer"] = units(finished)
        rows.append(row)
    key = ranked_by(rows)
    sign = 1 if key == "test_nll_nats" else -1
    return sorted(rows, key=lambda row: least_first(sign * row.get(key, math.nan)))


def least_first(value: float) -> tuple[bool, float]:
    """A key to sort by: NaN, which a plain sort leaves anywhere, stands last."""
    return math.isnan(value), value


def units(rows: list[dict[str, Any]]) -> str:
    """Active units of each stochastic layer, from the image up; means over rows of as many layers."""
    each = [str(row.get("active_units_by_layer", row["active_units"])).split("+") for row in rows]
    return "+".join(f"{statistics.fmean(map(float, layer)):.0f}" for layer in zip(*each, strict=True))


def ranked_by(rows: list[dict[str, Any]]) -> str:
    """The first of `RANKINGS` that all finished rows of `aggregate` have, and that means the same in all of them."""
    finished = [row for row in rows if "test_nll_nats" in row]
    if finished and all("validation_elbo_nats" in row for row in finished):
        return "validation_elbo_nats"
    return "test_elbo_nats" if len({row.get("eval_samples") for row in finished}) > 1 else "test_nll_nats"


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error; NaN for the error of one value, and of values that are not all finite."""
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values), math.nan
    several = len(values) > 1
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)) if several else math.nan


def level_with_best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows of `aggregate`, those behind the first by less than two standard errors of the difference."""
    key = ranked_by(rows)
    if key not in rows[0]:
        return []
    error = lambda row: math.hypot(row[f"{key}_se"], rows[0][f"{key}_se"])  # NaN, of one seed, is never more
    return [row for row in rows[1:] if key in row and abs(row[key] - rows[0][key]) < 2 * error(row)]


def of_one_seed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows of `aggregate`, those of one finished run, from which no difference can be judged."""
    return [row for row in rows if row["runs"] - row["diverged"] == 1]


def heading(results: list[dict[str, Any]]) -> str:
    """What the table says, in a line."""
    sizes = f"{len(results)} run{'s' if len(results) > 1 else ''}"
    rows = aggregate(results)
    spread = "; mean ± standard error over seeds" if any(row["runs"] > 1 for row in rows) else ""
    best = f", best first by the {RANKINGS[ranked_by(rows)]}" if len(rows) > 1 else ""
    each = lambda name: ", ".join(sorted({row[name] for row in results}))
    data = f"{each('dataset')}, {each('binarization')} binarization, test set, nats per image"
    return f"{data}: {sizes}{best}{spread}"


def to_markdown(results: list[dict[str, Any]]) -> str:
    """The aggregate as a table that also reads well on a terminal, its columns aligned."""
    rows, names = aggregate(results), varying(results)
    several = any(row["runs"] > 1 for row in rows)
    samples = {r["eval_samples"] for r in results}
    figures = {key: title for key, title in FIGURES.items() if any(key in row for row in rows)}
    if "test_nll_nats" in figures and len(samples) == 1:
        figures["test_nll_nats"] += f" (K={samples.pop()})"
    if any("validation_elbo_nats" in row for row in rows):
        figures = {"validation_elbo_nats": "validation ELBO"} | figures
    header = [*names, *(["runs"] if several else []), *figures.values()]
    table = [header, *([cell(row, n) for n in [*names, *(["runs"] if several else []), *figures]] for row in rows)]
    if any(row["diverged"] for row in rows):
        for line, extra in zip(table, ["diverged", *(str(row["diverged"]) for row in rows)], strict=True):
            line.append(extra)
    return tables.to_markdown(table)


def cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    if key not in FIGURES and key != "validation_elbo_nats":
        return str(value)
    digits = {"active_units": 1, "test_bits_per_dim": 3}.get(key, 2)
    error = row.get(f"{key}_se", math.nan)
    text = f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")
    layers = row.get("active_units_by_layer") if key == "active_units" else None
    return f"{text} ({layers})" if layers else text
