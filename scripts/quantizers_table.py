"""Prints the table of compare_quantizers.sh: PYTHONPATH=. python scripts/quantizers_table.py OUTPUT."""

import sys
from collections import defaultdict
from pathlib import Path

from experiments.common import results, tables

# The figures of trained runs, with their titles and digits.
COLUMNS = {
    "codes_used": ("codes used", 1),
    "code_perplexity": ("perplexity", 1),
    "test_distortion_nats": ("distortion", 2),
    "test_elbo_nats": ("ELBO", 2),
}


def gradient_errors(path: Path, group: str) -> dict[str, list[str]]:
    """The errors of each estimator's gradient in `group`, relative to the length of the true gradient.

    The first is that of the mean of all draws, the second the standard deviation of one draw.
    """
    deviation = lambda row: row[f"{group}_variance"] ** 0.5 / row[f"{group}_truth_norm"]
    errors = lambda row: (row[f"{group}_relative_bias"], deviation(row))
    return {row["estimator"]: [f"{100 * error:.0f} %" for error in errors(row)] for row in tables.read_csv(path)}


def main(output: Path) -> None:
    smoothed = gradient_errors(output / "smoothed/results.csv", "encoding")
    enumerated = gradient_errors(output / "stochastic/results.csv", "encoder")
    lines = []
    for sweep, errors in (("vq", smoothed), ("fsq", smoothed), ("stochastic_vq", enumerated)):
        settings = defaultdict(list)
        for row in tables.read_csv(output / sweep / "results.csv"):
            settings[row["posterior"], row["estimator"]].append(row)
        for (posterior, estimator), rows in settings.items():
            label = "vq, no losses" if "codebook_loss" in posterior else posterior.removesuffix(":codes=16")
            figures = []
            for name, (_, digits) in COLUMNS.items():
                mean, error = results.mean_and_error([row[name] for row in rows])
                figures.append(f"{mean:.{digits}f} ± {error:.{digits}f}")
            lines.append((mean, [label, estimator, *figures, *errors[estimator]]))  # the last figure is the ELBO
    header = ["posterior", "estimator", *(title for title, _ in COLUMNS.values()), "bias", "noise"]
    print(tables.to_markdown([header, *(line for _, line in sorted(lines, reverse=True))]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
