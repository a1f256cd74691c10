"""The section `epoch`: the time of whole epochs of training, for this project and for other programs."""

import numpy as np

from experiments.benchmark import contenders
from experiments.benchmark.timing import matmul_limit, ratio, spread, take_turns
from experiments.common import tables


def measure(batch_sizes: list[int], num_images: int, rounds: int) -> tuple[list[dict], str]:
    """The numbers of each batch size, and their tables."""
    measured = [_measure(batch_size, num_images, rounds) for batch_size in batch_sizes]
    return measured, "\n\n".join(map(_table, measured))


def _measure(batch_size: int, num_images: int, rounds: int) -> dict:
    """The milliseconds of a step of each contender in each round, and the medians of the ratios."""
    images = (np.random.default_rng(0).random((num_images, contenders.PIXELS)) < 0.13).astype(np.uint8)
    steps = len(images) // batch_size
    flop = flop_of_step(batch_size)
    runs = {name: make(images, batch_size) for name, make in contenders.available().items()}
    runs["matmul limit"], flop_of_limit = matmul_limit()
    times = take_turns(runs, rounds, f"batch {batch_size}")
    limit = times.pop("matmul limit") / flop_of_limit * flop
    per_step = {name: t / steps for name, t in times.items()} | {"matmul limit": limit}  # seconds
    return {
        "batch_size": batch_size,
        "matmul_flop": flop,
        "milliseconds": {name: (1e3 * t).tolist() for name, t in per_step.items()},
        "project_over": {name: ratio(per_step["this project"], t) for name, t in per_step.items()},
        "over_bare_scan": {name: ratio(t, per_step["bare scan"]) for name, t in per_step.items()},
        "of_matmul_limit": {name: ratio(limit, t) for name, t in per_step.items()},
    }


def flop_of_step(batch_size: int) -> int:
    """The FLOP of a step's matrix products.

    Each weight matrix has three products, except that the first layer needs no gradient in the images.
    """
    return (6 * contenders.WEIGHTS - 2 * contenders.PIXELS * contenders.HIDDEN) * batch_size


def _table(measured: dict) -> str:
    columns = ["ms a step: median (range)", "over the bare scan", "of the matmul limit", "this project over it"]
    table = [[f"batch {measured['batch_size']}", *columns]]
    for name, times in measured["milliseconds"].items():
        over = measured["over_bare_scan"][name]
        share = measured["of_matmul_limit"][name]
        ours = measured["project_over"][name]
        table.append([name, spread(times), f"{over:.2f}", f"{share:.0%}", f"{ours:.2f}"])
    return tables.to_markdown(table)
