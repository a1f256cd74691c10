"""Compares the results of scripts/reproduce.sh with the expected numbers, and fails if one is out of its tolerance."""

import csv
import statistics
import sys
from pathlib import Path

# Estimator: the mean test ELBO over seeds, in nats, and its tolerance.
ELBO = {"my_estimator": (-24.0, 0.2), "reinforce": (-26.4, 1.5)}
# Estimator: the variance of the encoder's gradient over that of `reinforce`, and its tolerance.
VARIANCE = {"my_estimator": (0.083, 0.01), "reparam": (0.0088, 0.002)}


def read_column(path: Path, column: str) -> dict[str, float]:
    """The mean of a column of a results.csv, for each estimator."""
    values: dict[str, list[float]] = {}
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values.setdefault(row["estimator"], []).append(float(row[column]))
    return {estimator: statistics.mean(numbers) for estimator, numbers in values.items()}


def compare(figure: str, obtained: dict[str, float], expected: dict[str, tuple[float, float]]) -> bool:
    """Prints a line for each estimator, and returns whether every number is within its tolerance."""
    passed = True
    for estimator, (number, tolerance) in expected.items():
        within = abs(obtained[estimator] - number) <= tolerance
        passed = passed and within
        verdict = "" if within else "  <- differs"
        print(f"{figure:<28} {estimator:<16} {obtained[estimator]:9.4f}  expected {number:g} +- {tolerance:g}{verdict}")
    return passed


def main(folder: Path) -> int:
    elbo = read_column(folder / "digits/results.csv", "test_elbo_nats")
    variance = read_column(folder / "gradients/results.csv", "encoder_variance")
    ratio = {estimator: number / variance["reinforce"] for estimator, number in variance.items()}
    passed = [compare("test ELBO, nats", elbo, ELBO), compare("variance over reinforce's", ratio, VARIANCE)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
