"""Set-up of all tests: the cores of a worker, flags of the compiler, its cache, and the check of annotations.

The CPU appears as eight devices, so that sharding is tested on every machine. The compiler hardly optimizes, because
most of the time of these tests is compile time: without the flags the tests take twice as long.
"""

import gc
import importlib.metadata
import os
from pathlib import Path

import jaxtyping
import pytest

# Each worker has cores of its own, so that the threads of one do not interrupt those of another.
worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if worker.isdecimal() and hasattr(os, "sched_setaffinity"):
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(worker) % len(cores) :: workers])

# jax reads these flags when it first looks for devices, so set them before any import of jax.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions refuse this flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Two workers would share one GPU, and tests of exact numbers would meet its rounding; see experiments.gpu_check.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests, workers and later runs of the suite share their compiled programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Every error that a test expects would otherwise have its traceback filtered, which compares hundreds of paths.
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
# Without the lines of Python at which operations of lowered programs begin, tests of estimators take 5 % less time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Traces make many objects that live long: with Python's thresholds, 7 % of the contract tests is garbage collection.
gc.set_threshold(100_000, 50, 100)

# The tests execute the annotations of vae/: types and shapes. This must stand before anything that imports vae.
# An int may stand where a float is annotated (PEP 484).
jaxtyping.install_import_hook("vae", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def restored_tables():
    """Takes back what a test adds to the tables."""
    from experiments.common.optimizers import OPTIMIZERS
    from experiments.common.schedules import SCHEDULES
    from vae import data, estimators, models, objectives

    tables = [
        OPTIMIZERS,
        SCHEDULES,
        estimators.BY_NAME,
        objectives.BY_NAME,
        data.DATASETS,
        models.POSTERIORS,
        models.PRIORS,
        models.LIKELIHOODS,
        models.ARCHITECTURES,
        models.ACTIVATIONS,
    ]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
