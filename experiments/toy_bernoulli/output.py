"""The files of a trained toy problem: curves.csv, results.csv, results.md and figures/toy.png."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import cli, files, grammar, phases, results, tables
from experiments.common.problems import Problem
from experiments.toy_bernoulli.training import Curves, Training
from vae.estimators import BY_NAME

# The families of estimators, by the information that they use. Each family has a column in the picture.
FAMILIES = SCORE, VALUES, SLOPE, BIASED = "score function", "f at chosen states", "f and df/dz", "biased"


def write(folder: Path, points: list[Problem], curves: Curves, training: Training) -> None:
    """Writes the tables and the picture, and prints the table."""
    titles = [", ".join(f"{name} {value:g}" for name, value in point.point.items()) or point.name for point in points]
    steps = np.arange(training.records) * training.stride
    files.write_text(folder / "curves.csv", tables.to_csv(_rows_of_curves(titles, steps, curves)))
    rows = _rows_of_results(titles, curves)
    files.write_text(folder / "results.csv", tables.to_csv(rows))
    header = ["point", "estimator", "final loss", "variance at the start"]
    table = tables.to_markdown([header, *map(_cells, rows)])
    files.write_text(folder / "results.md", table + "\n")
    families = {family: [name for name in curves if _family(name) == family] for family in FAMILIES}
    families = {family: names for family, names in families.items() if names}
    print(f"{table}\n* biased according to its paper; mean ± standard error of {training.seeds} seeds\n")
    phases.say("drawing")
    with cli.drawing(folder / "figures"):
        from experiments.common import plots  # matplotlib takes a second to import

        plots.save(plots.toy_curves(steps, curves, titles, families), folder / "figures" / "toy")
        print(f"picture: {folder / 'figures' / 'toy.png'}")
    print(f"every number: {folder / 'curves.csv'}, {folder / 'results.csv'}")


def _rows_of_curves(titles: list[str], steps: np.ndarray, curves: Curves) -> list[dict[str, Any]]:
    """A row for each point, estimator, seed and record."""
    return [
        {
            "point": title,
            "estimator": name,
            "seed": seed,
            "step": int(steps[record]),
            "loss": float(curve["loss"][i, seed, record]),
            "variance": float(curve["variance"][i, seed, record]),
        }
        for i, title in enumerate(titles)
        for name, curve in curves.items()
        for seed, record in np.ndindex(curve["loss"][i].shape)
    ]


def _rows_of_results(titles: list[str], curves: Curves) -> list[dict[str, Any]]:
    """A row for each point and estimator: means over seeds and their standard errors, the least loss first."""
    rows = []
    for i, title in enumerate(titles):
        rows_of_point = []
        for name, curve in curves.items():
            row = {"point": title, "estimator": name, "family": _family(name)}
            figures = {"final_loss": curve["loss"][i, :, -1], "first_variance": curve["variance"][i, :, 0]}
            for figure, values in figures.items():
                row[figure], row[f"{figure}_stderr"] = results.mean_and_error(values.tolist())
            rows_of_point.append(row)
        rows += sorted(rows_of_point, key=lambda row: results.least_first(row["final_loss"]))
    return rows


def _family(name: str) -> str:
    """The family of an estimator, according to the table of estimators."""
    entry = BY_NAME[grammar.parse(name).name]
    if entry.biased:
        return BIASED
    if entry.differentiates_f:
        return SLOPE
    return SCORE if "any" in entry.latents else VALUES


def _cells(row: dict[str, Any]) -> list[str]:
    loss = tables.with_error(row["final_loss"], row["final_loss_stderr"], digits=6)
    mark = " *" if row["family"] == BIASED else ""
    return [row["point"], row["estimator"] + mark, loss, tables.number(row["first_variance"])]
