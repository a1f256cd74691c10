"""Prints the table of compare_quantizers.sh: PYTHONPATH=. python scripts/quantizers_table.py OUTPUT."""

import math
import sys
from pathlib import Path

from experiments.common import results, tables, workdirs

# The figures of trained runs, with their titles.
FIGURES = {
    "codes_used": "codes used",
    "code_perplexity": "perplexity",
    "test_distortion_nats": "distortion",
    "test_elbo_nats": "ELBO",
}


def gradient_errors(path: Path, group: str) -> dict[str, list[str]]:
    """The errors of each estimator's gradient in `group`, relative to the length of the true gradient.

    The first is that of the mean of all draws, the second the standard deviation of one draw. There are none if the
    measurement failed, because the run that it needs diverged.
    """
    if not (path / "results.csv").exists():
        return {}
    [laboratory] = workdirs.read([path]).laboratories
    deviation = lambda row: row[f"{group}_variance"] ** 0.5 / row[f"{group}_truth_norm"]
    errors = lambda row: (row[f"{group}_relative_bias"], deviation(row))
    return {row["estimator"]: [f"{100 * error:.0f} %" for error in errors(row)] for row in laboratory.rows}


def main(output: Path) -> None:
    smoothed = gradient_errors(output / "smoothed", "encoding")
    enumerated = gradient_errors(output / "stochastic", "encoder")
    lines = []
    for sweep, errors in (("vq", smoothed), ("fsq", smoothed), ("stochastic_vq", enumerated)):
        for row in results.aggregate(workdirs.read([output / sweep]).finished, ["posterior", "estimator"]):
            posterior = "vq, no losses" if "codebook_loss" in row["posterior"] else row["posterior"]
            cells = [
                posterior.removesuffix(":codes=16"),
                row["estimator"],
                *(results.cell(row, key) for key in FIGURES),
            ]
            lines.append((row, [*cells, *errors.get(row["estimator"], ["-", "-"])]))
    lines.sort(key=lambda line: results.least_first(-line[0].get("test_elbo_nats", math.nan)))
    header = ["posterior", "estimator", *FIGURES.values(), "bias", "noise"]
    print(tables.to_markdown([header, *(cells for _, cells in lines)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
