"""Runs an entry point many times for one import of its packages: each case is a fork of a process that has them.

A fork before jax has made its first array is safe, and saves some seconds a case.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# What entry points import when they need it: seconds for every case, where the fork has to do it.
LATE_IMPORTS = ("sklearn.datasets", "experiments.pictures", "experiments.training", "experiments.trained")


SMALL = ["--epochs=2", "--hidden=16", "--latent_dim=2", "--eval_samples=4", "--eval_every=1"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run(module: str, cases: list[list[str]], folder: Path, timeout: float = 600, devices: int = 1) -> list[Outcome]:
    """The outcome of `python -m module *case` for each case, in order, from the repository's root."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    flags = environment.get("XLA_FLAGS", "").split()  # those of conftest.py, but for its number of devices
    flags = [flag for flag in flags if "device_count" not in flag]
    environment["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])
    command = [sys.executable, __file__, module, json.dumps(cases), str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=timeout)
    read = lambda i, name: (folder / f"{i}.{name}").read_text()
    return [Outcome(int(read(i, "code")), read(i, "out"), read(i, "err")) for i in range(len(cases))]


def train(folder: Path, *cases: list[str], devices: int = 1) -> list[Outcome]:
    """Small runs of `python -m experiments.train`, without figures unless these are asked for."""
    plain = lambda case: [] if "--figures" in case else ["--nofigures"]
    return run("experiments.train", [[*SMALL, *plain(case), *case] for case in cases], folder, devices=devices)


def _main(module: str, cases: list[list[str]], folder: Path) -> None:
    import importlib

    from experiments import cli

    entry, *_ = (importlib.import_module(name) for name in (module, *LATE_IMPORTS))
    for i, case in enumerate(cases):
        child = os.fork()
        if child == 0:
            for name, descriptor in (("out", 1), ("err", 2)):
                os.dup2(os.open(folder / f"{i}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
            sys.argv = [module, *case]
            cli.run(entry.main)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        (folder / f"{i}.code").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
