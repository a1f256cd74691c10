"""Short versions of the commands that scripts/reproduce.sh runs."""

import csv
import os
import subprocess
import sys

import pytest


def run(command, *arguments):
    """Runs `python -m experiments.COMMAND --import=my_estimator ARGUMENTS` with the import paths of pyproject.toml."""
    line = [sys.executable, "-m", f"experiments.{command}", "--import=my_estimator", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(line, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return {row["estimator"]: row for row in csv.DictReader(file)}


def test_the_train_command_finds_the_estimator(tmp_path):
    small = ["--epochs=1", "--hidden=8", "--eval_samples=2", "--figures=none", f"--workdir={tmp_path}"]
    run("train", "--estimator=my_estimator", "--objective=elbo", *small)
    assert float(read_rows(tmp_path / "results.csv")["my_estimator"]["test_elbo_nats"]) < 0


def test_the_estimator_has_less_variance_than_the_plain_score_function(tmp_path):
    small = ["--draws=2000", "--rounds=3", f"--output={tmp_path}"]
    run("compare_estimators", "--problem=quadratic", "--estimators=my_estimator,reinforce", *small)
    rows = read_rows(tmp_path / "results.csv")
    assert rows["my_estimator"]["phi_biased"] == "False"
    assert float(rows["my_estimator"]["phi_variance"]) < float(rows["reinforce"]["phi_variance"])


@pytest.mark.parametrize("argument", ["--quik", "quick"])
def test_the_script_refuses_an_unknown_argument(argument):
    done = subprocess.run(
        ["bash", "scripts/reproduce.sh", argument], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
