"""Test set-up: the CPU shows itself as eight devices, so that sharding is tested on any machine, and compiles with less
optimization: what these tests wait for is the compiler (half the time), not the code."""

import os
from pathlib import Path

# Read by jax when it first looks for devices, so it must stand before anything that imports jax.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1")
# Compiled programs are shared between tests, workers and runs of the suite.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
