"""Runs `experiments.compare_estimators` in this process and reads what it wrote."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from absl import flags

from experiments.compare_estimators import __main__ as compare_estimators

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> None:
    values = flags.FlagValues()
    compare_estimators.define_flags(values)
    values(["compare_estimators", *arguments])
    compare_estimators.main(values)


def run_in_shell(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """`python -m module *arguments` in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def train(folder: Path, *arguments: str) -> Path:
    """A small trained run in `folder`."""
    common = ["--hidden=8", "--eval_samples=2", "--figures=none", f"--workdir={folder}"]
    done = run_in_shell("experiments.train", *common, *arguments, folder=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))
