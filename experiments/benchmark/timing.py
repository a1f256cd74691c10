"""Timing of contenders that take turns, and the description of the machine."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm


def take_turns(runs: dict[str, Callable], rounds: int, title: str) -> dict[str, np.ndarray]:
    """The seconds of each run in each round, `[rounds]`. The first call of a run, which compiles, is not counted."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), title, leave=False, disable=not sys.stdout.isatty()):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(times) for name, times in seconds.items()}


def ratio(times: np.ndarray, others: np.ndarray) -> float:
    """The median over rounds of the ratio in each round."""
    return statistics.median(times / others)


def spread(times: np.ndarray) -> str:
    """The text "median (least-largest)" for a table."""
    return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


def matmul_limit(size: int = 2048, repeats: int = 4) -> tuple[Callable[[], None], int]:
    """A run of `repeats` products of two size x size matrices, which measures the peak speed, and the run's FLOP."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda matrix: matrix @ matrix)

    def run():
        for _ in range(repeats):
            jax.block_until_ready(product(matrix))

    return run, 2 * size**3 * repeats


def machine() -> str:
    """The device, and the versions of jax and Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor())
    device = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else f"{processor}, {os.cpu_count()} cores"
    return f"{device}, jax {jax.__version__}, Python {platform.python_version()}"
