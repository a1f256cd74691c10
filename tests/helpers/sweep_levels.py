"""How often the verdict of a sweep is wrong, measured on simulated sweeps of equal estimators.

python -m tests.helpers.sweep_levels          prints the levels that experiments/train/README.md states, in minutes
"""

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


def simulated_sweep(rng, candidates, seeds, effects):
    """Rows of a sweep: the figures of a run are its seed's effect, its own effect, and noise of both splits."""
    rows = []
    shared = rng.normal(0.0, 0.3, seeds)
    for (name, effect), number in zip(effects.items(), candidates, strict=True):
        for rate in range(number):
            for seed in range(seeds):
                run = 10 - effect + shared[seed] + rng.normal(0.0, 0.2)
                test, validation = run + rng.normal(0.0, 0.05), run + rng.normal(0.0, 0.05)
                rows.append(row(name, seed, test, rate=1e-3 * (1 + rate), validation=-validation))
    return rows


def share_of_false_verdicts(candidates: list[int], seeds: int, repetitions: int) -> float:
    """The share of sweeps of equal estimators, with these numbers of candidates, in which any pair is told apart."""
    rng = np.random.default_rng(7)
    names = "abcdefgh"[: len(candidates)]
    wrong = 0
    for _ in range(repetitions):
        rows = simulated_sweep(rng, candidates, seeds, dict.fromkeys(names, 0.0))
        wrong += any(pair.is_told_apart for pair in comparison.compare(rows, "estimator").pairs)
    return wrong / repetitions


def main() -> None:
    table = [["candidates of each estimator", "3 seeds", "5 seeds", "10 seeds"]]
    for candidates in ([1] * 4, [4] * 4, [1, 8]):
        shares = [share_of_false_verdicts(candidates, seeds, REPETITIONS) for seeds in (3, 5, 10)]
        table.append([", ".join(map(str, candidates)), *(f"{100 * share:.2g} %" for share in shares)])
    print(tables.to_markdown(table))


if __name__ == "__main__":
    main()
