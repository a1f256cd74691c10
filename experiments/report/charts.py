"""The interactive charts of the report: the rows that each chart shows, and the text beside the pointer."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from experiments.common import charts
from experiments.common.charts import along_training, gradients, toys, training
from experiments.common.comparison import Comparison
from experiments.common.workdirs import Contents, Laboratory, Toy
from experiments.report import plotly_charts
from experiments.report.plotly_charts import Figure


def bound(contents: Contents, every: int = 1) -> Figure | None:
    """The evaluated ELBO against steps, examples and seconds.

    Args:
      every: Every how many evaluations one is drawn. The last evaluation is always drawn.
    """
    runs = [
        {"label": label, "rows": run.rows, "seconds": run.seconds, "status": run.row.get("status")}
        | {key: run.row[key] for key in ("step_evaluations",) if key in run.row}
        for label, group in contents.runs_by_label().items()
        for run in group
        if run.rows
    ]
    by_clock = {clock: training.bound(runs, clock) for clock in training.known_clocks(runs)}
    return plotly_charts.draw_choices(by_clock, every, hover="%{y:.2f} nats at %{x:,.4~g}", size=4)


def gradient(contents: Contents, group: str, figure: str) -> Figure | None:
    """A figure of the gradient in one group of parameters along training, as --measure_gradient recorded it."""
    return _along_training(along_training.gradient(_labelled(contents), group, figure))


def auto_schedule(contents: Contents) -> Figure | None:
    """The share of the steps in which the estimator `auto` used each candidate."""
    return _along_training(along_training.schedule(_labelled(contents)))


def auto_errors(contents: Contents) -> Figure | None:
    """The errors that the estimator `auto` measured."""
    return _along_training(along_training.errors(_labelled(contents)))


def _labelled(contents: Contents) -> list[dict[str, Any]]:
    groups = contents.runs_by_label().items()
    return [{"label": label if contents.names else "", "rows": run.rows} for label, runs in groups for run in runs]


def _along_training(chart: charts.Chart) -> Figure | None:
    return plotly_charts.draw(chart, hover="%{y:.3~g} at step %{x:,.4~g}", size=4, bars=True)


def candidates(comparison: Comparison, name: str) -> Figure | None:
    """The validation bound against one of the settings that validation chose."""
    hover = "%{y:.2f} ± %{error_y.array:.2f} nats at %{x}"
    return plotly_charts.draw(training.candidates(comparison, name), hover=hover, size=7, bars=True)


def rate_distortion(contents: Contents) -> Figure | None:
    """Rate and distortion of every finished run."""
    points = []
    for label, runs in contents.runs_by_label().items():
        for row in (run.row for run in runs if run.row.get("status") == "done"):
            rate, distortion = row["test_rate_nats"], row["test_distortion_nats"]
            if math.isfinite(rate + distortion):
                details = [row["test_elbo_nats"], row["seed"]]
                point = {"label": label, "rate_nats": rate, "distortion_nats": distortion, "details": details}
                points.append(point | {"name": f"seed {row['seed']}"})
    hover = "rate %{x:.2f}, distortion %{y:.2f}, ELBO %{customdata[0]:.2f} nats<br>seed %{customdata[1]}%{text}"
    chart = training.rate_distortion(points)
    return plotly_charts.draw(chart, hover=hover, mode="markers", size=9, outline=True)


def variance_against_cost(
    rows: list[dict[str, Any]], group: str, costs: Sequence[str] = ("flops", "seconds")
) -> Figure | None:
    """Variance of the gradient with its interval, against each of these costs. The rows belong to one point."""
    rows = [row for row in rows if all(0 < row[cost] < math.inf for cost in costs)]
    by_cost = {gradients.COST_NAMES[cost]: gradients.variance_against_cost(rows, group, cost) for cost in costs}
    hover = "variance %{y:.3g}<br>%{x:.3s} (K = %{customdata})"
    return plotly_charts.draw_choices(by_cost, hover=hover, size=9, bars=True)


def bias(rows: list[dict[str, Any]], group: str) -> Figure | None:
    """Bias along the true gradient with its interval; rows whose bias is unknown are left out."""
    rows = [row for row in rows if math.isfinite(row[f"{group}_bias"] + row[f"{group}_bias_stderr"])]
    if not rows:
        return None
    hover = "%{x:.2f} ± %{error_x.array:.2f} %<br>largest |z| %{customdata[0]:.2f}, chance %{customdata[1]:.2f}"
    figure = plotly_charts.draw(gradients.bias(rows, group), hover=hover, mode="markers", size=8, bars=True)
    figure["layout"]["xaxis"] |= {"zeroline": True, "zerolinecolor": "@muted"}
    return figure


def against(laboratory: Laboratory, group: str, x: str, figure: str) -> Figure | None:
    """A figure with its interval, against K (x = "num_samples") at the last point of a sweep, or against the point."""
    rows = laboratory.rows
    if x == "num_samples" and laboratory.point:
        last = max(row[laboratory.point] for row in rows)
        rows = [row for row in rows if row[laboratory.point] == last]
    chart = gradients.against(rows, group, x, figure)
    return plotly_charts.draw(chart, hover="%{y:.3g} at %{x:.4~g}", width=1.6, bars=True)


def toy(toy: Toy, point: str, figure: str) -> Figure | None:
    """The loss or the variance of the gradient against steps, at one point of a toy problem."""
    hover = "%{y:.4~g} at step %{x}"
    return plotly_charts.draw(_toy_chart(toy, point, figure), hover=hover, mode="lines", width=1.8)


def toy_dashes(toy: Toy) -> dict[str, str]:
    """The style of line for each family of estimators."""
    return plotly_charts.dashes(_toy_chart(toy, toy.rows[0]["point"], "loss"))


def _toy_chart(toy: Toy, point: str, figure: str) -> charts.Chart:
    curves: dict[str, toys.Curve] = defaultdict(lambda: defaultdict(list))
    for row in toy.curves:
        if row["point"] == point:
            curves[row["estimator"]][row["step"]].append(row[figure])
    families: dict[str, list[str]] = defaultdict(list)
    for name, family in dict.fromkeys((row["estimator"], row["family"]) for row in toy.rows):
        families[family].append(name)
    return toys.curves(curves, families, figure)
