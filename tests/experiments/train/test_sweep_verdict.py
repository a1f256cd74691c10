"""`python -m experiments.train --compare=...` as a user meets it."""

import csv

from experiments.common import comparison
from tests.helpers.entry_points import train
from tests.helpers.wrong_files import unknown_names

SWEEP = [
    "--estimator=reparam,stl",
    "--objective=elbo",
    "--learning_rate=1e-3,1e-2",
    "--seed=0,1",
    "--validation_size=200",
    "--compare=estimator",
]


def test_a_sweep_ends_with_its_verdict_which_later_commands_write_again(tmp_path):
    workdir = tmp_path / "sweep"
    command = [*SWEEP, f"--workdir={workdir}"]
    first, again = train(tmp_path / "outcomes", [*command, "--figures=sweep"], command)
    assert (first.code, again.code) == (0, 0), first.err + again.err
    verdict = (workdir / "verdict.md").read_text()
    assert verdict in first.out
    assert verdict in again.out
    assert (workdir / "figures" / "verdict.png").exists()
    assert unknown_names(workdir) == set()
    with open(workdir / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: float(row[name]) for name in ("learning_rate", "test_nll_nats", "validation_elbo_nats")}
    [pair] = comparison.compare(rows, "estimator").pairs
    with open(workdir / "verdict.csv", newline="") as file:
        [written] = csv.DictReader(file)
    assert (written["better"], float(written["difference"])) == (pair.better, pair.difference)
