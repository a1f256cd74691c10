"""Runs commands many times for one import of their packages: each call is a fork of a process that has imported them.

The tests of the commands make some 250 calls. An import of jax, flax, orbax and sklearn takes three to five seconds,
so forks save about a quarter of an hour. A fork is safe as long as jax has not made an array. What jax reads from the
environment when it is imported, all but XLA_FLAGS, is that of the first call.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# The modules of the commands, and the slow modules that they import when they need them.
IMPORTS = (
    "sklearn.datasets",
    "orbax.checkpoint",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "experiments.common.pictures",
    "experiments.train.__main__",
    "experiments.evaluate.__main__",
    "experiments.compare_estimators.__main__",
    "experiments.toy_bernoulli.__main__",
    "experiments.gradient_flow.graph",
    "experiments.report.page",
)


SMALL = ["--epochs=2", "--hidden=16", "--latent_dim=2", "--eval_samples=4", "--eval_every=1"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Call(NamedTuple):
    """`python -m module *arguments`, in a process in which the function `fault` of faults.py was called first."""

    module: str
    arguments: list[str]
    fault: str = ""


def run(module: str, cases: list[list[str]], folder: Path, devices: int = 1) -> list[Outcome]:
    """The outcome of `python -m module *case` for each case, in order, from the repository's root."""
    return run_all([Call(module, case) for case in cases], folder, devices)


def run_all(calls: list[Call], folder: Path, devices: int = 1, timeout: int = 600) -> list[Outcome]:
    """The outcomes of calls of any commands, in order. A call is killed after `timeout` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    flags = environment.get("XLA_FLAGS", "").split()  # the flags of conftest.py, with another number of devices
    flags = [flag for flag in flags if "device_count" not in flag]
    environment["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])
    server = _server()
    print(json.dumps([calls, str(folder), environment, timeout]), file=server.stdin, flush=True)
    assert server.stdout.readline(), "the process that starts the commands has ended"
    read = lambda i, name: (folder / f"{i}.{name}").read_text()
    return [Outcome(int(read(i, "code")), read(i, "out"), read(i, "err")) for i in range(len(calls))]


@functools.cache
def _server() -> subprocess.Popen:
    """The process that has imported the packages. It starts the commands of all tests of this process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.helpers.entry_points"]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)  # closes stdin, which ends the server
    return server


def training(*arguments: str, fault: str = "") -> Call:
    """A small run of `python -m experiments.train`, without figures unless --figures says otherwise."""
    plain = [] if any(argument.startswith("--figures") for argument in arguments) else ["--figures=none"]
    return Call("experiments.train", [*SMALL, *plain, *arguments], fault)


def train(folder: Path, *cases: list[str], devices: int = 1) -> list[Outcome]:
    """The outcomes of small runs."""
    return run_all([training(*case) for case in cases], folder, devices)


def _serve() -> None:
    """Starts what each line of stdin asks for, and answers with a line when it has ended."""
    for name in IMPORTS:
        importlib.import_module(name)
    gc.disable()
    gc.freeze()  # so that garbage collection in a child does not copy the memory that it shares
    for line in sys.stdin:
        calls, folder, environment, timeout = json.loads(line)
        for i, call in enumerate(calls):
            child = os.fork()
            if child == 0:
                os.environ.clear()
                os.environ.update(environment)
                signal.alarm(timeout)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                for name, descriptor in (("out", 1), ("err", 2)):
                    path = Path(folder) / f"{i}.{name}"
                    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
                _enter(Call(*call))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            (Path(folder) / f"{i}.code").write_text(str(os.waitstatus_to_exitcode(status)))
        print("done", flush=True)


def _enter(call: Call) -> None:
    from absl import flags

    from experiments.common import cli
    from tests.helpers import faults

    entry = importlib.import_module(f"{call.module}.__main__")
    if hasattr(entry, "define_flags"):
        entry.define_flags(flags.FLAGS)
    if call.fault:
        getattr(faults, call.fault)()
    sys.argv = [call.module, *call.arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    try:
        cli.run(entry.main, memory_flags=getattr(entry, "MEMORY_FLAGS", ()))
    except SystemExit as error:
        if not error.code:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code)  # a normal exit of the interpreter takes half a second


if __name__ == "__main__":
    _serve()
