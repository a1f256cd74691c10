"""Compares the results of scripts/reproduce.sh with the expected numbers, and fails if one is out of its tolerance.

Every number is printed. Copy those of your own experiments into `EXPECTED`.
"""

import csv
import statistics
import sys
from pathlib import Path

# The variances of all estimators are divided by that of this one.
RIVAL = "reinforce"
# Figure and estimator: the expected number and its tolerance. ELBOs are means over seeds, in nats.
EXPECTED = {
    ("test ELBO", "my_estimator"): (-24.0, 0.2),
    ("test ELBO", "reinforce"): (-26.4, 1.5),
    ("encoder variance ratio", "my_estimator"): (0.083, 0.01),
    ("encoder variance ratio", "reparam"): (0.0088, 0.002),
}


def read_obtained(folder: Path) -> dict[tuple[str, str], float]:
    """The mean test ELBO of each estimator, and its variance ratio for each group of parameters that was compared."""
    elbos = read_columns(folder / "digits/results.csv", "test_elbo_nats")
    obtained = {("test ELBO", estimator): number for estimator, number in elbos["test_elbo_nats"].items()}
    for column, variances in read_columns(folder / "gradients/results.csv", "_variance").items():
        if RIVAL not in variances:
            sys.exit(f"{RIVAL} was not measured; give RIVAL in {__file__} the name of a measured estimator")
        figure = f"{column.removesuffix('_variance')} variance ratio"
        obtained |= {(figure, name): number / variances[RIVAL] for name, number in variances.items() if name != RIVAL}
    return obtained


def read_columns(path: Path, end: str) -> dict[str, dict[str, float]]:
    """The columns of a results.csv whose names end with `end`: the mean for each estimator."""
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    for column in (name for name in rows[0] if name.endswith(end)):
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(row["estimator"], []).append(float(row[column] or "nan"))
        columns[column] = {estimator: statistics.mean(numbers) for estimator, numbers in values.items()}
    return columns


def main(folder: Path) -> int:
    obtained = read_obtained(folder)
    passed = True
    for figure, estimator in {**obtained, **EXPECTED}:
        number = obtained.get((figure, estimator))
        expected = EXPECTED.get((figure, estimator))
        line = f"{figure:<28} {estimator:<20} {'not measured' if number is None else format(number, '12.4g')}"
        if expected:
            line += f"  expected {expected[0]:g} +- {expected[1]:g}"
            if number is None or not abs(number - expected[0]) <= expected[1]:
                line += "  <- differs"
                passed = False
        print(line)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
