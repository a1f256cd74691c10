"""The section about a result of the laboratory: which gradient is better, by how much, and at what cost.

The laboratory is the command experiments.compare_estimators.
"""

import math
from collections import Counter
from html import escape
from typing import Any

from experiments.common import best_by_cost
from experiments.common.charts import gradients
from experiments.common.tables import number, plus_minus, with_interval
from experiments.common.workdirs import Laboratory
from experiments.report import charts, words
from experiments.report.elements import Cell, Charts, Fact, Section, cell_with_interval, large_figures, table


def section(laboratory: Laboratory, page_charts: Charts, place: int) -> Section:
    """Charts and a table for each group of parameters."""
    heading = f"Gradient quality: {laboratory.rows[0]['problem']}"
    parts = [
        words.explained(words.LABORATORY),
        "<p>A star marks estimators whose papers call them biased. Brackets are intervals.</p>",
    ]
    for group in laboratory.groups:
        point = ""
        if laboratory.point:
            point = f" <small>{escape(laboratory.point)} {_last_point(laboratory):g}</small>"
        parts.append(f"<h3>{escape(group)}{point}</h3>")
        parts.append(f'<div class="pair">{_charts(laboratory, group, page_charts)}</div>')
        parts.append(_estimators(laboratory, group))
        if note := best_by_cost.note(_last_rows(laboratory), group):
            parts.append(f"<p>{escape(note)}</p>")
    return Section(f"laboratory-{place}", heading, "".join(parts))


def protocol(laboratory: Laboratory) -> str:
    """One sentence that says what was measured, and how."""
    settings = laboratory.config["settings"]
    truths = " and ".join(dict.fromkeys(str(row["truth"]).split(", K=")[0] for row in laboratory.rows))
    return (
        f"{laboratory.rows[0]['problem']}, {settings['objective']}: {settings['draws']} gradients of each estimator,"
        f" truth: {truths}; {100 * settings['confidence']:g} % intervals."
    )


def best_estimators(laboratory: Laboratory) -> str:
    """The best estimator for each group of parameters.

    With several points or several K, the estimators that were best somewhere, and how often.
    """
    facts = []
    for group in laboratory.groups:
        best = Counter(row["estimator"] for row in laboratory.rows if row[f"{group}_verdict"] == "best")
        counts = ", ".join(f"{name} ({number} of {best.total()})" for name, number in best.most_common())
        judged = gradients.COST_NAMES[laboratory.judge_by]
        facts.append(Fact(f"{group}: least variance × {judged}", next(iter(best)) if len(best) == 1 else counts or "-"))
    return large_figures(facts)


def _charts(laboratory: Laboratory, group: str, page_charts: Charts) -> str:
    point = laboratory.point
    rows = laboratory.rows
    last = _last_rows(laboratory)
    drawn = {
        "variance against cost": charts.variance_against_cost(last, group, gradients.costs(laboratory.judge_by)),
        "bias": charts.bias(last, group),
    }
    pairs = {(row["estimator"], row["num_samples"]) for row in rows}
    if len(pairs) > len({name for name, _ in pairs}):
        drawn["signal-to-noise ratio"] = charts.against(laboratory, group, "num_samples", "snr")
    if point and len({row[point] for row in rows}) > 1:
        drawn[f"variance against {point}"] = charts.against(laboratory, group, point, "variance")
    return "".join(page_charts.add(figure, f"{group} {name}") for name, figure in drawn.items() if figure)


def _last_rows(laboratory: Laboratory) -> list[dict[str, Any]]:
    """The rows at the last point of a sweep, or all rows."""
    point = laboratory.point
    return [row for row in laboratory.rows if not point or row[point] == _last_point(laboratory)]


def _last_point(laboratory: Laboratory) -> float:
    return max(row[laboratory.point] for row in laboratory.rows)


def _estimators(laboratory: Laboratory, group: str) -> str:
    """A table of every row of the laboratory's results.csv, with the columns of this group of parameters."""
    point = laboratory.point if len({row.get(laboratory.point) for row in laboratory.rows}) > 1 else None
    header = [*([point] if point else []), "estimator", "K", "verdict", "variance", "SNR", "cosine"]
    costs = gradients.costs(laboratory.judge_by)
    header += [f"variance × {gradients.COST_NAMES[cost]}, to best" for cost in costs]
    header += ["bias along truth (%)", "max |z|"]
    header += ["s" if cost == "seconds" else gradients.COST_NAMES[cost] for cost in costs]
    lines = []
    for row in laboratory.rows:
        value = lambda key, row=row: row.get(f"{group}_{key}", math.nan)
        line = [Cell(f"{row[point]:g}", row[point])] if point else []
        line.append(Cell(row["estimator"] + (" *" if row["declared_biased"] else "")))
        line.append(Cell(str(row["num_samples"]), row["num_samples"]))
        line.append(Cell(str(value("verdict"))))
        for key in ("variance", "snr", "cosine", *(f"variance_x_{cost}_to_best" for cost in costs)):
            line.append(cell_with_interval(with_interval(row, f"{group}_{key}"), value(key)))
        line.append(cell_with_interval(plus_minus(100 * value("bias"), 100 * value("bias_stderr")), value("bias")))
        line.append(Cell(number(value("max_abs_z"), 2), value("max_abs_z")))
        line += [Cell(number(row[key]), row[key]) for key in costs]
        lines.append(line)
    return table(header, lines, f"estimators {group}")
