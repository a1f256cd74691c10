"""Short versions of the commands that scripts/reproduce.sh runs, with the choices at its top, and a short training of
each posterior and objective of this package."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from my_estimator import ESTIMATORS, OBJECTIVES, POSTERIORS

SCRIPT = Path("scripts/reproduce.sh").read_text(encoding="utf-8")
CHOICES = dict(re.findall(r"^(estimators|posterior|objective|num_samples|problem|rivals)=(\S+)", SCRIPT, re.MULTILINE))
SHORT = ["--epochs=1", "--hidden=8", "--eval_samples=2", "--figures=none"]


def run(command, *arguments):
    """Runs `python -m experiments.COMMAND --import=my_estimator ARGUMENTS` with the import paths of pyproject.toml."""
    line = [sys.executable, "-m", f"experiments.{command}", "--import=my_estimator", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(line, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_script_names_the_estimators_of_the_package():
    names = CHOICES["estimators"].split(",")
    assert set(names) <= set(ESTIMATORS), f"estimators={CHOICES['estimators']} at the top of scripts/reproduce.sh"


def test_the_train_command_takes_the_estimators(tmp_path):
    choices = [f"--{name}={CHOICES[name]}" for name in ("posterior", "objective", "num_samples")]
    run("train", f"--estimator={CHOICES['estimators']}", *choices, *SHORT, f"--workdir={tmp_path}")
    rows = read_rows(tmp_path / "results.csv")
    assert len(rows) == len(CHOICES["estimators"].split(","))
    assert all(float(row["test_elbo_nats"]) < 0 for row in rows)


@pytest.mark.parametrize(
    "choices",
    [
        *(f"--posterior={name} --objective=elbo --estimator=leave_one_out --num_samples=2" for name in POSTERIORS),
        *(f"--objective={name} --num_samples={CHOICES['num_samples']}" for name in OBJECTIVES),
    ],
)
def test_the_train_command_takes_each_posterior_and_objective(choices, tmp_path):
    run("train", *choices.split(), *SHORT, f"--workdir={tmp_path}")
    [row] = read_rows(tmp_path / "results.csv")
    assert float(row["test_elbo_nats"]) < 0


def test_the_laboratory_takes_the_estimators(tmp_path):
    names = f"{CHOICES['estimators']},{CHOICES['rivals']}"
    short = ["--draws=500", "--rounds=3", f"--output={tmp_path}"]
    run("compare_estimators", f"--problem={CHOICES['problem']}", f"--estimators={names}", *short)
    rows = read_rows(tmp_path / "results.csv")
    assert [row["estimator"] for row in rows] == names.split(",")
    for row in rows[: len(CHOICES["estimators"].split(","))]:
        verdicts = [value for name, value in row.items() if name.endswith("_verdict")]
        assert "NOT FINITE" not in verdicts, f"{row['estimator']} with K={row['num_samples']} samples; see min_samples"
        variances = [float(value) for name, value in row.items() if re.fullmatch(r"\w+_variance", name)]
        assert variances
        assert min(variances) > 0


@pytest.mark.parametrize("argument", ["--quik", "quick"])
def test_the_script_refuses_an_unknown_argument(argument):
    done = subprocess.run(
        ["bash", "scripts/reproduce.sh", argument], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
