"""The section that runs whole commands, each in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from experiments.common.program_folder import programs_of
from experiments.gpu_check import programs
from experiments.gpu_check.guard import Cases, Context, Row, Wrong

ROOT = Path(__file__).resolve().parents[2]


def commands(context: Context) -> Cases:
    """A sweep, and the laboratory at one of its runs."""
    workdir = context.folder / "sweep"
    sizes = ["--epochs=2", "--eval_samples=10"] if context.small else ["--epochs=20"]
    draws = 20 if context.small else 1000

    def train() -> Row:
        arguments = [f"--workdir={workdir}", "--seed=0,1,2,3,4,5,6,7", "--figures=none", *data_flags(context), *sizes]
        row = run_command(context, "train", *arguments)
        [program] = programs_of(workdir)
        if program.fallback():
            raise Wrong(program.fallback())
        training = max(program.seconds().values())
        return row | {"training_seconds": training, "test_nll_nats": program.results()[0]["test_nll_nats"]}

    def laboratory() -> Row:
        arguments = ["--run=seed=0", "--objective=elbo", "--estimators=reparam,stl", f"--draws={draws}"]
        return run_command(
            context, "compare_estimators", f"--workdir={workdir}", f"--output={context.folder}/laboratory", *arguments
        )

    return {"train, 8 runs": train, "compare_estimators": laboratory}


def data_flags(context: Context) -> list[str]:
    """The flags of training that choose the images of `programs.digits`."""
    data = programs.digits()
    if data.name == "digits":
        return []
    path = context.folder / "synthetic.npz"
    np.savez(path, train=data.train, test=data.test)
    return [f"--dataset=npz:{path}"]


def run_command(context: Context, name: str, *arguments: str, **environment: str) -> Row:
    """Runs a command, and returns the seconds that it took.

    Raises:
      Wrong: If the command fails. The sentence is the last line that it printed.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=max(1.0, context.deadline - time.monotonic()),
    )
    print(done.stdout, done.stderr)
    if done.returncode:
        raise Wrong(f"{name} ended with status {done.returncode}: {(done.stderr.strip().splitlines() or ['-'])[-1]}")
    return {"command_seconds": time.perf_counter() - started}
