"""The files of the command: results.csv, results.md, results.tex and figures/policy_gradients.png."""

import math
from pathlib import Path
from typing import Any

from experiments.common import cli, files, phases, tables
from experiments.common.tables import number, with_interval

Row = dict[str, Any]

HEADER = [
    "loss",
    "sequences",
    "claims the gradient of",
    "has the gradient of",
    "error (%)",
    "cosine",
    "bias along claim (%)",
    "variance",
    "variance x sequences",
    "verdict",
]


def write(folder: Path, rows: list[Row], draws: int, confidence: float = 0.95) -> None:
    """Writes every file except config.json, and prints the table."""
    files.write_text(folder / "results.csv", tables.to_csv(rows))
    cells = [HEADER, *map(_cells, rows)]
    note = (
        "KL(p, q) is the mean of log p/q over sequences of p. The columns up to cosine are sums over all groups of"
        " sequences, without noise: error is the distance of the mean gradient from the claimed one, relative to its"
        f" length. The other columns come from {draws:,} gradients of each loss, and their intervals have level"
        f" {100 * confidence:g} %. Variance x sequences is relative to the best unbiased loss with the same claim and"
        " sequences of the same policy; those of losses that begin with old_ are of an older policy."
    )
    text = f"{tables.to_markdown(cells)}\n\n{note}\n"
    files.write_text(folder / "results.md", text)
    unbiased = [{"to_best": row["to_best"]} if not row["biased"] else {} for row in rows]
    bold = tables.best_places(unbiased, 8 * [""] + ["to_best", ""], {"to_best": -1})
    files.write_text(folder / "results.tex", tables.to_latex(cells, "Gradients of losses of a policy. " + note, bold))
    print(text)
    phases.say("drawing")
    with cli.drawing(folder / "figures"):
        from experiments.common import plots  # matplotlib takes a second to import
        from experiments.policy_gradients import picture

        plots.save(picture.draw(rows), folder / "figures" / "policy_gradients")
        print(f"figure: {folder / 'figures' / 'policy_gradients.png'}")
    print(f"every number: {folder / 'results.csv'}; LaTeX: results.tex")


def _cells(row: Row) -> list[str]:
    percent = {f"bias{end}": 100 * row[f"bias{end}"] for end in ("", "_low", "_high")}
    return [
        row["estimator"],
        str(row["sequences"]),
        row["claims"],
        row["gradient_of"],
        "0" if row["exact_error"] < 1e-9 else number(100 * row["exact_error"]),
        "-" if math.isnan(row["exact_cosine"]) else f"{row['exact_cosine']:.3f}",
        with_interval(percent, "bias"),
        with_interval(row, "variance"),
        with_interval(row, "to_best"),
        row["verdict"],
    ]
