"""The programs that are measured. They are made from settings and compiled as `experiments.train` does it."""

import functools
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from experiments.common import build
from experiments.common.settings import Settings
from vae import data as datasets
from vae import train
from vae.data import Dataset
from vae.devices import mesh

DIGITS = Settings()
MNIST = Settings(hidden=(500,), latent_dim=(20,), batch_size=128)
IWAE = Settings(objective="iwae", num_samples=50, hidden=(200, 200), latent_dim=(50,), activation="tanh", batch_size=20)


# --- Images


def digits() -> Dataset:
    """The digits of scikit-learn, or synthetic images of their size where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn"):
        return datasets.load("digits")
    return synthetic(images=1500, size=8)


def synthetic(images: int, size: int) -> Dataset:
    """Grey images `[images, size, size, 1]`: each is one of ten random images, with noise. The test split has a tenth
    as many."""
    rng = np.random.default_rng(0)
    originals = rng.random((10, size, size, 1)) < 0.3
    number = images + images // 10
    bright = originals[rng.integers(10, size=number)]
    noise = rng.integers(0, 40, bright.shape)
    pixels = np.where(bright, 255 - noise, noise).astype(np.uint8)
    return Dataset("synthetic", pixels[:images], pixels[:0], pixels[images:], levels=256, checksum="synthetic")


# --- Training


class Training(NamedTuple):
    """The training of one run, or of several runs side by side, ready to start.

    Attributes:
      init: `init() -> state`.
      epoch: `epoch(state) -> (state, metrics)`; it takes the memory of the state that it is given.
      steps: The number of steps in an epoch.
      images: The number of images that all runs together see in an epoch.
      product_flop: The FLOP of all matrix products in an epoch.
      bytes: The memory that XLA says an epoch needs, with its arguments.
    """

    init: Callable[[], train.TrainState]
    epoch: Callable[[train.TrainState], tuple[train.TrainState, dict[str, Any]]]
    steps: int
    images: int
    product_flop: int
    bytes: int


def with_seeds(run: Settings, runs: int) -> dict[str, np.ndarray]:
    """The array-valued settings of `runs` runs that differ in their seeds, each with an axis of runs."""
    values = {name: np.full(runs, leaf) for name, leaf in build.arrays(run).items()}
    return values | {"seed": np.arange(runs, dtype=np.int32)}


def compile_training(run: Settings, data: Dataset, runs: int | None = None) -> Training:
    """Compiles the training of one run, or of `runs` runs side by side, which differ in their seeds."""
    with jax.default_matmul_precision(run.matmul_precision):
        functions = build.functions(run, data)
        values = build.arrays(run) if runs is None else with_seeds(run, runs)
        init = functions.init
        epoch = functions.epoch
        if runs is not None:
            init = jax.jit(train.over_runs(init, "map"))
            epoch = train.over_runs(epoch, "vmap", shared=1)
        images = jnp.asarray(data.train)
        state = jax.eval_shape(init, values)
        flop = product_flop(epoch, state, values, images)
        compiled = jax.jit(epoch, donate_argnums=0).lower(state, values, images).compile()
    device = mesh.make(1, 1, jax.local_devices()[:1])
    return Training(
        init=lambda: init(values),
        epoch=lambda state: compiled(state, values, images),
        steps=functions.steps_per_epoch,
        images=(runs or 1) * functions.steps_per_epoch * run.batch_size,
        product_flop=flop,
        bytes=mesh.memory(device, compiled)[0],
    )


def seconds_of_an_epoch(training: Training, at_least: float) -> float:
    """The median over at least three epochs, and over at least so many seconds, after an epoch of warming up."""
    state, _ = jax.block_until_ready(training.epoch(training.init()))
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        started = time.perf_counter()
        state, _ = jax.block_until_ready(training.epoch(state))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


# --- Matrix products


def product_flop(function: Callable, *args: Any) -> int:
    """The FLOP of all matrix products of a function. A product in a scan counts once for each round."""
    return _product_flop(jax.make_jaxpr(function)(*args).jaxpr)


def _product_flop(jaxpr: Jaxpr) -> int:
    flop = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0].aval.shape
            flop += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
        flop += rounds * sum(map(_product_flop, jaxprs_in_params(equation.params)))
    return flop


@functools.cache
def product_speed(precision: str, size: int) -> float:
    """The FLOP per second of products of two size x size float32 matrices; bfloat16 ones for "bfloat16"."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    left, right = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in (0, 1))
    with jax.default_matmul_precision(precision):
        product = jax.jit(lambda left, right: left @ right).lower(left, right).compile()
    return 2 * size**3 / _seconds_of_a_call(lambda: product(left, right))


def copy_speed(size: int) -> float:
    """The bytes per second, read and written, of adding 1 to `size` float32 numbers."""
    numbers = jnp.zeros(size)
    add = jax.jit(lambda numbers: numbers + 1)
    return 8 * size / _seconds_of_a_call(lambda: add(numbers))


def _seconds_of_a_call(call: Callable[[], Any], calls: int = 10, rounds: int = 5) -> float:
    """The seconds of a call in the fastest round. The calls of a round are queued without waiting for one another."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)])
        times.append((time.perf_counter() - started) / calls)
    return min(times)
