"""The section about a toy problem: the loss that each estimator reached, and its variance."""

import math
from html import escape

from experiments.common.tables import number, with_error
from experiments.common.workdirs import Toy
from experiments.report import charts
from experiments.report.elements import Cell, Charts, Fact, Section, large_figures, table


def section(toy: Toy, page_charts: Charts, place: int) -> Section:
    """Two charts and a table for each point of the toy problem."""
    dashes = ", ".join(f"{family} {dash}" for family, dash in charts.toy_dashes(toy).items())
    parts = [f"<p>Lines: {escape(dashes)}.</p>"]
    for point in _points(toy):
        parts.append(f"<h3>{escape(point)}</h3>")
        for figure_name in ("loss", "variance"):
            if figure := charts.toy(toy, point, figure_name):
                parts.append(page_charts.add(figure, f"{figure_name}, {point}"))
        parts.append(_estimators(toy, point))
    return Section(f"toy-{place}", f"Toy problem: {toy.config['settings']['toy']}", "".join(parts))


def protocol(toy: Toy) -> str:
    """One sentence that says what was trained, and how."""
    settings = toy.config["settings"]
    return (
        f"Toy problem {settings['toy']}: {settings['steps']} steps of Adam with each estimator, exact losses, mean ±"
        f" standard error of {settings['seeds']} seeds; K = {settings['num_samples']}, or the least K of an estimator"
        " that needs more."
    )


def least_losses(toy: Toy) -> str:
    """The least loss at each point, and the estimators that reached it."""
    facts = []
    for point in _points(toy):
        rows = [row for row in toy.rows if row["point"] == point]
        losses = {row["estimator"]: f"{row['final_loss']:.6f}" for row in rows if math.isfinite(row["final_loss"])}
        least = min(losses.values(), key=float, default="-")
        names = ", ".join(name for name, loss in losses.items() if loss == least)
        facts.append(Fact(f"{point}: least loss", least, names))
    return large_figures(facts)


def _points(toy: Toy) -> list[str]:
    return list(dict.fromkeys(row["point"] for row in toy.rows))


def _estimators(toy: Toy, point: str) -> str:
    """A table of every row of the toy's results.csv at this point."""
    lines = []
    for row in (row for row in toy.rows if row["point"] == point):
        loss = row["final_loss"]
        shown = with_error(loss, row["final_loss_stderr"], digits=6)
        variance = Cell(number(row["first_variance"]), row["first_variance"])
        lines.append([Cell(row["estimator"]), Cell(row["family"]), Cell(shown, loss), variance])
    return table(["estimator", "works with", "final loss", "variance at the start"], lines, f"toy {point}")
