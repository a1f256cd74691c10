"""What was obtained here of a published number: readers of the folder of results that a script left.

Each makes `read(path)`, a dict of "obtained", "K", "data", "precision", "machine", "minutes" and "commit". It raises
ValueError where the script is not through.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import tables


def trained(figure: str, unit: str = "nats", sign: int = 1, units: bool = False, **chosen: Any) -> Callable:
    """Mean and standard error of a test figure over the seeds of the runs with the settings `chosen`; with `units`,
    the active units in brackets."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents, results

        contents = report_contents.read([path])
        runs = [run for run in contents.runs if all(str(run.row[key]) == str(value) for key, value in chosen.items())]
        runs = [run for run in runs if run.row.get("status") == "done"]
        if not runs:
            raise ValueError(f"{path} has no finished run with {chosen}; run the script again")
        values, row, config = [sign * run.row[figure] for run in runs], runs[0].row, runs[0].config
        mean, error = results.mean_and_error(values)
        obtained = f"{mean:.2f}" + (f" ± {error:.2f} ({len(values)} seeds)" if len(values) > 1 else "")
        if units:
            obtained += f" ({statistics.fmean(run.row['active_units'] for run in runs):.0f} units)"
        samples = (
            f"{row['num_samples']}; evaluated with {row['eval_samples'] if 'nll' in figure or 'bits' in figure else 10}"
        )
        seconds = max((run.seconds[-1] for run in runs if run.seconds), default=math.nan)
        return {
            "obtained": f"{obtained} {unit}".strip(),
            "K": samples,
            "data": f"{row['dataset']}, {row['binarization']}",
            "precision": row["compute_dtype"],
            **_made(config, seconds / 60),
        }

    return read


def order(name: str, figure: str, sign: int = 1) -> Callable:
    """All finished settings by a figure, best first."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents, results

        contents = report_contents.read([path])
        if not contents.finished:
            raise ValueError(f"{path} has no finished run; let the script go on")
        rows = [row for row in results.aggregate(contents.finished, [name]) if figure in row]
        rows = sorted(rows, key=lambda row: sign * row[figure], reverse=True)
        whole = trained(figure, **{name: rows[0][name]})(path)
        return whole | {"obtained": ", ".join(f"{row[name]} {row[figure]:.2f}" for row in rows)}

    return read


def slope(group: str, estimator: str) -> Callable:
    """The slope of log SNR against log K, by least squares."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        x, y = ([math.log(row[key]) for row in rows] for key in ("num_samples", f"{group}_snr"))
        return _measured(laboratory, f"{statistics.linear_regression(x, y).slope:+.2f}", rows)

    return read


def variance(group: str, estimator: str, over: str | None = None, point: float | None = None) -> Callable:
    """The variance of a gradient with its interval at one point, the last by default; or its ratio to another's."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        at = (lambda row: row[laboratory.point]) if laboratory.point else lambda row: 0
        [row] = [row for row in rows if at(row) == (max(map(at, rows)) if point is None else point)]
        if over is None:
            ends = [tables.number(row[f"{group}_variance{end}"], 4) for end in ("", "_low", "_high")]
            return _measured(laboratory, f"{ends[0]} [{ends[1]}, {ends[2]}]", [row])
        [other] = [one for one in _laboratory(path, over)[1] if at(one) == at(row)]
        ratio = row[f"{group}_variance"] / other[f"{group}_variance"]
        return _measured(laboratory, f"{tables.number(ratio)} of {over}'s", [row])

    return read


def bias(group: str, estimator: str) -> Callable:
    """The bias along the exact gradient, in percent."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        row = rows[-1]
        text = tables.plus_minus(100 * row[f"{group}_bias"], 100 * row[f"{group}_bias_stderr"])
        return _measured(laboratory, f"{text} %", [row])

    return read


def toy(point: str, figure: str, estimators: tuple[str, ...]) -> Callable:
    """The final loss or the variance at the start of some estimators at a point of a toy problem, least first."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents

        [found] = report_contents.read([path]).toys
        rows = [row for row in found.rows if row["point"] == point and row["estimator"] in estimators]
        rows.sort(key=lambda row: row[figure])
        error = lambda row: row.get(f"{figure}_stderr", math.nan)
        precise = lambda row: f"{row[figure]:.5f} ± {error(row):.5f}"
        shown = lambda row: tables.number(row[figure]) if math.isnan(error(row)) else precise(row)
        chosen = found.config["settings"]
        return {
            "obtained": ", ".join(f"{row['estimator']} {shown(row)}" for row in rows),
            "K": str(chosen["num_samples"]),
            "data": f"{chosen['toy']} toy, {chosen['steps']} steps, {chosen['seeds']} seeds",
            "precision": "float32",
            **_made(found.config, found.config["seconds"] / 60),
        }

    return read


def _laboratory(path: Path, estimator: str):
    from experiments import report_contents

    [laboratory] = report_contents.read([path]).laboratories
    rows = [row for row in laboratory.rows if row["estimator"] == estimator]
    if not rows:
        raise ValueError(f"{path} has no row of {estimator}; run the script again")
    return laboratory, rows


def _measured(laboratory, obtained: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    samples = [row["num_samples"] for row in rows]
    draws = laboratory.config["settings"]["draws"]
    return {
        "obtained": obtained,
        "K": f"{samples[0]} to {samples[-1]}" if len(set(samples)) > 1 else str(samples[0]),
        "data": f"{rows[0]['problem']}, {draws} gradients",
        "precision": "float32",
        **_made(laboratory.config, laboratory.config.get("seconds", math.nan) / 60),
    }


def _made(config: dict[str, Any], minutes: float) -> dict[str, str]:
    commit = config.get("git_commit") or "-"
    return {
        "machine": config["platform"].replace(", x86_64", ""),
        "minutes": "-" if math.isnan(minutes) else tables.number(minutes, 2),
        "commit": commit[:7] + "+" * commit.endswith("+"),
    }
