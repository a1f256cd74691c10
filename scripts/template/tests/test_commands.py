"""Short versions of the commands that scripts/reproduce.sh runs, with the choices at its top."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_train_command_takes_the_estimators(tmp_path):
    choices = [f"--{name}={CHOICES[name]}" for name in ("posterior", "objective", "num_samples")]
    run("train", f"--estimator={CHOICES['estimators']}", *choices, *SHORT, f"--workdir={tmp_path}")
    rows = read_rows(tmp_path / "results.csv")
    assert len(rows) == len(CHOICES["estimators"].split(","))
    assert all(float(row["test_elbo_nats"]) < 0 for row in rows)


def test_the_train_command_takes_the_posterior_and_the_objective(tmp_path):
    choices = ["--posterior=floored_normal:least_scale=0.1", "--objective=capacity:nats=2:weight=3"]
    run("train", *choices, *SHORT, f"--workdir={tmp_path}")
    [row] = read_rows(tmp_path / "results.csv")
    assert row["objective"] == "capacity:nats=2.0:weight=3.0"
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
