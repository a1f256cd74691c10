"""How often the verdict of a sweep is wrong, measured on simulated sweeps of equal estimators.

python -m tests.helpers.sweep_levels          prints the levels that experiments/train/README.md states, in minutes
"""

from typing import NamedTuple

import numpy as np

from experiments.common import comparison, tables
from experiments.common.settings import Settings

DEFAULTS = Settings(validation_size=100).json()
REPETITIONS = 4000


def row(estimator, seed, nll, *, rate=1e-3, validation=None, **settings):
    """A row of results.csv. The validation bound is that of the test set unless it is given."""
    figures = {"test_nll_nats": nll, "test_elbo_nats": -nll - 1.0, "validation_elbo_nats": validation or -nll}
    chosen = {"estimator": estimator, "seed": seed, "learning_rate": rate} | settings
    return DEFAULTS | chosen | {"status": "done"} | figures


class Case(NamedTuple):
    """A kind of sweep of equal estimators.

    Attributes:
      name: The name in the table.
      candidates: The number of candidates of each estimator.
      gap: By how many nats all candidates of the last estimator are worse than its first candidate.
      failing: The share of the runs of the last estimator that are two nats worse. Its other runs are better by so much
        that the means are equal.
    """

    name: str
    candidates: list[int]
    gap: float = 0.0
    failing: float = 0.0


CASES = (
    Case("1, 1, 1, 1", [1] * 4),
    Case("4, 4, 4, 4", [4] * 4),
    Case("1, 8", [1, 8]),
    Case("8, and 8 with a single good one", [8, 8], gap=2.0),
    Case("1, and 1 with one failing run in ten", [1, 1], failing=0.1),
)


def simulated_sweep(rng, case, seeds):
    """Rows of a sweep: the figures of a run are its seed's effect, its own effect, and noise of both splits."""
    rows = []
    shared = rng.normal(0.0, 0.3, seeds)
    for place, number in enumerate(case.candidates, 1):
        is_last = place == len(case.candidates)
        for rate in range(number):
            for seed in range(seeds):
                run = 10 + shared[seed] + rng.normal(0.0, 0.2) + case.gap * (is_last and rate > 0)
                if is_last and case.failing:
                    run += 2.0 * ((rng.random() < case.failing) - case.failing)
                test, validation = run + rng.normal(0.0, 0.05), run + rng.normal(0.0, 0.05)
                rows.append(row("abcdefgh"[place - 1], seed, test, rate=1e-3 * (1 + rate), validation=-validation))
    return rows


def share_of_false_verdicts(case: Case, seeds: int, repetitions: int) -> float:
    """The share of sweeps in which any pair is told apart."""
    rng = np.random.default_rng(7)
    sweeps = (simulated_sweep(rng, case, seeds) for _ in range(repetitions))
    return np.mean([any(pair.is_told_apart for pair in comparison.compare(rows, "estimator").pairs) for rows in sweeps])


def main() -> None:
    table = [["candidates of each estimator", "3 seeds", "5 seeds", "10 seeds"]]
    for case in CASES:
        shares = [share_of_false_verdicts(case, seeds, REPETITIONS) for seeds in (3, 5, 10)]
        table.append([case.name, *(f"{100 * share:.2g} %" for share in shares)])
    print(tables.to_markdown(table))


if __name__ == "__main__":
    main()
