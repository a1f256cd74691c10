"""Test set-up: the CPU shows itself as eight devices, so that sharding is tested on any machine, and compiles with next
to no optimization: what these tests wait for is the compiler (twice as long without these flags), not the code."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

# Read by jax when it first looks for devices, so they must stand before anything that imports jax.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no such flag, and stop at an unknown one
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Compiled programs are shared between tests, workers and runs of the suite.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


# Files whose tests all look at what one long fixture did.
WHOLE = (
    "tests/experiments/test_bad_input.py",
    "tests/experiments/train/test_faults.py",
    "tests/experiments/train/test_train_command.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share fixtures and compiled programs go to one worker: those of one file whose parameters begin with
    the same word (an estimator or a family), and those without parameters. The larger groups start first.

    By the tests' names, since xdist 3.8's own `xdist_group` is without effect under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class _Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if file in WHOLE:
                return file
            word = re.search(r"\[-*(\w+)", test)
            return f"{file} {word[1] if word else ''}"

    return _Groups(config, log)
