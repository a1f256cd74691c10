"""The sections that check whether the numbers are right: tests of the core, the canary, determinism, precision."""

import dataclasses
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import build, canary
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.gpu_check import commands, programs
from experiments.gpu_check.guard import Cases, Context, Row, Wrong
from vae import evaluate, train
from vae.data import Dataset, pixels

# Tests of the core, in the order in which they run.
TESTS = (
    "tests/vae/estimators/test_tools.py",
    "tests/vae/test_objectives.py",
    "tests/vae/test_train.py",
    "tests/vae/test_evaluate.py",
)
# They compare two programs bit by bit. A GPU may round their operations in another order.
EQUAL_BITS_ON_CPUS = ("a_mapped_sweep", "more_free_bits", "counted_by_dimension")


# --- Tests


def tests(context: Context) -> Cases:
    """Fast tests of the core, with products in full float32. Needs pytest and scipy."""
    import pytest
    import scipy

    del scipy
    jax.config.update("jax_default_matmul_precision", "highest")
    return {path: lambda path=path: _test(pytest, path) for path in TESTS[: 1 if context.small else None]}


def _test(pytest, path: str) -> Row:
    """Runs a file of tests without tests/conftest.py, which slows the compiled programs down."""
    counter = _Counter()
    options = ["--noconftest", "-m", "not slow", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    if jax.default_backend() != "cpu":
        options += ["-k", f"not ({' or '.join(EQUAL_BITS_ON_CPUS)})"]
    status = pytest.main([str(commands.ROOT / path), *options], plugins=[counter])
    if status:
        failed = ", ".join(counter.failed[:3]) or "none by name"
        raise Wrong(f"pytest ended with status {int(status)}; passed: {counter.passed}; failed: {failed}")
    return {"passed": counter.passed}


class _Counter:
    """A plugin of pytest that counts the tests that passed, and remembers the names of the others."""

    def __init__(self):
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid.split("::")[-1])

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid} cannot be imported")


# --- Runs side by side


def canaries(context: Context) -> Cases:
    """A few steps of runs side by side, and the same steps of single runs."""
    discrete = {"objective": "elbo", "posterior": "bernoulli", "estimator": "relax"}
    float32 = dataclasses.replace(programs.DIGITS, matmul_precision="float32")
    small = {
        "digits": (programs.DIGITS, programs.digits()),
        "digits in float32": (float32, programs.digits()),
        "digits, bits with relax": (dataclasses.replace(programs.DIGITS, **discrete), programs.digits()),
    }
    images = programs.synthetic(images=512, size=28)
    large = {"784-500-20": (programs.MNIST, images), "IWAE, K = 50": (programs.IWAE, images)}
    chosen = small if context.small else small | large
    runs = 4 if context.small else 16
    training = {name: lambda pair=pair: _check_side_by_side(*pair, runs) for name, pair in chosen.items()}
    return training | {"evaluation in float32": lambda: _check_evaluation(float32, programs.digits(), runs)}


def _check_side_by_side(run: Settings, data: Dataset, runs: int) -> Row:
    with jax.default_matmul_precision(run.matmul_precision):
        functions = build.functions(run, data)
        difference = canary.difference(
            functions.init,
            functions.epoch,
            programs.with_seeds(run, runs),
            canary.few(data.train, run.batch_size),
            canary.rounding(run.compute_dtype, run.matmul_precision),
        )
    if difference:
        raise Wrong(f"runs side by side differ from single runs: {difference}")
    return {"runs_like_single_runs": runs}


def _check_evaluation(run: Settings, data: Dataset, runs: int) -> Row:
    """Compares log p(x) of runs side by side and of runs one after the other, at their initial parameters."""

    def evaluation(params, x):
        return jnp.mean(evaluate.log_likelihood(functions.evaluated.apply, params, x, jax.random.key(0), 50))

    with jax.default_matmul_precision(run.matmul_precision):
        functions = build.functions(run, data)
        params = jax.jit(train.over_runs(functions.init, "map"))(programs.with_seeds(run, runs)).params["model"]
        x = pixels(data.test[:64], data.levels)
        together, alone = (
            np.asarray(jax.jit(train.over_runs(evaluation, mode, shared=1))(params, x)) for mode in ("vmap", "map")
        )
    difference = np.abs(together - alone).max()
    if not difference <= canary.ROUNDING["float32"] * np.abs(alone).max():
        raise Wrong(f"log p(x) of runs side by side differs from that of single runs by {difference:.2g} nats")
    return {"runs_like_single_runs": runs}


# --- Determinism


def determinism(context: Context) -> Cases:
    """One seed, trained twice in two processes."""

    def twice() -> Row:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        sizes = ["--epochs=2", "--eval_samples=10"] if context.small else ["--epochs=20"]
        folders = [context.folder / f"determinism_{name}" for name in "ab"]
        for folder in folders:
            commands.run_command(
                context, "train", f"--workdir={folder}", *commands.data_flags(context), *sizes, "--figures=none",
                "--compilation_cache=none", XLA_FLAGS=flags,
            )  # fmt: skip
        first, second = map(_numbers, folders)
        if first != second:
            raise Wrong("the two trainings with --xla_gpu_deterministic_ops=true differ")
        return {"equal_bytes": len(first)}

    return {"one seed twice": twice}


def _numbers(workdir: Path) -> bytes:
    """All numbers of a run's training and evaluation."""
    folder = ProgramFolder(workdir)
    return (folder.path / "metrics.jsonl").read_bytes() + repr(folder.results()).encode()


# --- Precision


def precision(context: Context) -> Cases:
    """The same training in three precisions."""
    images = programs.synthetic(images=1024 if context.small else 12800, size=28)
    epochs = 1 if context.small else 5
    runs = {
        "float32": {"matmul_precision": "float32"},
        "tensorfloat32": {"matmul_precision": "tensorfloat32"},
        "bfloat16": {"matmul_precision": "bfloat16", "compute_dtype": "bfloat16"},
    }
    return {
        name: lambda changes=changes: _train(dataclasses.replace(programs.MNIST, **changes), images, epochs)
        for name, changes in runs.items()
    }


def _train(run: Settings, data: Dataset, epochs: int) -> Row:
    training = programs.compile_training(run, data)
    state = training.init()
    times = []
    for _ in range(epochs):
        started = time.perf_counter()
        state, metrics = jax.block_until_ready(training.epoch(state))
        times.append(time.perf_counter() - started)
    return {
        "bound_nats": metrics["bound"].item(),
        "epochs": epochs,
        "milliseconds_per_step": 1e3 * statistics.median(times) / training.steps,
    }
