"""Test set-up: the CPU shows itself as eight devices, so that sharding is tested on any machine, and compiles with less
optimization: what these tests wait for is the compiler (half the time), not the code."""

import os

# Read by jax when it first looks for devices, so it must stand before anything that imports jax.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1")
