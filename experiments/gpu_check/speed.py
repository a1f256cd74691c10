"""The sections that measure the speed and the memory of the device and of training."""

import jax

from experiments.common import provenance
from experiments.common.settings import Settings
from experiments.gpu_check import programs
from experiments.gpu_check.guard import Cases, Context, Row
from vae.data import Dataset


def device(context: Context) -> Cases:
    """What the device is, and the speed of its products and of its memory."""
    size = 1024 if context.small else 8192
    product = lambda precision: {"tflop_per_second": programs.product_speed(precision, size) / 1e12}
    return {
        "environment": _environment,
        **{f"{name} product": lambda name=name: product(name) for name in ("float32", "tensorfloat32", "bfloat16")},
        "memory": lambda: {"gigabytes_per_second": programs.copy_speed(size**2) / 1e9},
    }


def _environment() -> Row:
    described = provenance.describe_environment()
    stats = jax.devices()[0].memory_stats() or {}
    memory = {"memory_gigabytes": stats["bytes_limit"] / 1e9} if "bytes_limit" in stats else {}
    versions = {name: described["versions"].get(name, "none") for name in ("python", "jax", "flax", "optax")}
    return {name: described[name] for name in ("device", "platform", "git_commit")} | versions | memory


# --- Training


def digits(context: Context) -> Cases:
    """One run, and runs side by side, of the digits network."""
    runs = (1, 4) if context.small else (1, 8, 32, 128, 512, 2048)
    return _speeds(context, programs.DIGITS, programs.digits(), runs)


def mnist(context: Context) -> Cases:
    """One run, and runs side by side, of a network 784-500-20."""
    runs = (1, 2) if context.small else (1, 8, 32, 128)
    return _speeds(context, programs.MNIST, programs.synthetic(512 if context.small else 12800, size=28), runs)


def iwae(context: Context) -> Cases:
    """One run, and runs side by side, of an IWAE 784-200-200-50 with K = 50."""
    runs = (1,) if context.small else (1, 8)
    return _speeds(context, programs.IWAE, programs.synthetic(60 if context.small else 2000, size=28), runs)


def _speeds(context: Context, run: Settings, data: Dataset, numbers_of_runs: tuple[int, ...]) -> Cases:
    single: dict[str, int | None] = {"a single run": None}
    numbers = single | {f"runs side by side: {runs}": runs for runs in numbers_of_runs}
    return {name: lambda runs=runs: _speed(context, run, data, runs) for name, runs in numbers.items()}


def _speed(context: Context, run: Settings, data: Dataset, runs: int | None) -> Row:
    peak = programs.product_speed("default", 1024 if context.small else 8192)
    training = programs.compile_training(run, data, runs)
    seconds = programs.seconds_of_an_epoch(training, at_least=0.0 if context.small else 0.5)
    stats = jax.devices()[0].memory_stats() or {}
    largest = {"largest_gigabytes_so_far": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}
    return {
        "images_per_second": training.images / seconds,
        "microseconds_per_step": 1e6 * seconds / training.steps,
        "percent_of_product_speed": 100 * training.product_flop / seconds / peak,
        "gigabytes": training.bytes / 1e9,
    } | largest
