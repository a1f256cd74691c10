"""The figures of trained models on one split, for the curves and the results of training, and for
`experiments.evaluate`.

Every function takes the parameters of several runs of a program, with a leading axis of runs, and evaluates the runs
side by side, as many at once as fit into the memory.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.common import phases, results
from experiments.common.build import bits_per_dim
from experiments.common.settings import Settings, build
from vae import data as datasets
from vae import evaluate, models, train
from vae.devices import mesh

# The seed of the evaluation's noise. It is the same for every run, so runs differ only by their models.
SEED = 2013
# The number of samples of z for each image in the ELBO.
ELBO_SAMPLES = 10
# The number of images whose -log p(x) is computed between two steps of the progress.
SLICE = 500
# The memory that the decoded images of an evaluation may fill on a CPU, in bytes. More would leave the cache.
CPU_MEMORY = 12.5e6
# The number of images of a run that are decoded at once, and of arrays as large as these images at the same time. Runs
# that are side by side on a CPU share its cache, so fewer images of each run are decoded.
DECODED = 5000
CPU_DECODED = 1000
BUFFERS = 4
# The number of samples of an image that are decoded at once, for -log p(x).
CHUNK = 50
# The largest Pareto k at which averages of importance weights are reliable (arXiv:1507.02646).
LARGEST_PARETO_K = 0.7

Row = dict[str, Any]


def key() -> jax.Array:
    """The key of the evaluation's noise. Under vmap, other generators than threefry would draw other numbers."""
    return jax.random.key(SEED, impl="threefry2x32")


def curve_split(data: datasets.Dataset) -> str:
    """The split of the learning curves: validation if the data have one, else test."""
    return "validation" if len(data.validation) else "test"


def curve_spacing(epochs: int) -> int:
    """The number of epochs between two points of the learning curve of a run, unless --eval_every chooses another."""
    return max(1, epochs // 20)


def pixels(data: datasets.Dataset, split: str) -> np.ndarray:
    """The images of a split as the model sees them, float32 in [0, 1]."""
    return datasets.pixels(np.asarray(getattr(data, split)), data.levels)


def parts(devices: Mesh, params: Any, run_bytes: float) -> Iterator[tuple[int, Any]]:
    """Yields the number of the first run of each part, and the parameters of as many runs as can be evaluated at once.

    All parts but the last are equally large, and one compiled program evaluates them.

    Args:
      run_bytes: The bytes that the evaluation of a run needs.
    """
    runs = len(jax.tree.leaves(params)[0])
    stats = devices.local_devices[0].memory_stats() or {}
    memory = (stats["bytes_limit"] - stats["bytes_in_use"]) / 4 if "bytes_limit" in stats else CPU_MEMORY
    on_each = max(1, int(memory / run_bytes))
    count = math.ceil(runs / (on_each * devices.shape["run"]))
    size = math.ceil(runs / count / devices.shape["run"]) * devices.shape["run"]
    for first in range(0, runs, size):
        yield first, params if size == runs else mesh.some_runs(devices, params, first, min(size, runs - first))


def image_bytes(devices: Mesh, x: jax.Array | np.ndarray) -> float:
    """The bytes that the decoded images of a run need, for images like those in x."""
    return _decoded(devices, "vmap") * BUFFERS * 4 * math.prod(x.shape[1:])


def _decoded(devices: Mesh, mode: str) -> int:
    return CPU_DECODED if mode == "vmap" and devices.local_devices[0].platform == "cpu" else DECODED


# Cached: the learning curve and the results of a program use the same compiled function, and so do programs that differ
# only in their estimators.
@functools.lru_cache(maxsize=4)
def _make_bound(model: models.VAE, devices: Mesh, mode: str) -> Callable:
    batch_size = _decoded(devices, mode) // ELBO_SAMPLES

    def compute(params, x):
        terms = evaluate.rate_distortion(model.apply, params, x, key(), ELBO_SAMPLES, batch_size)
        figures = {f"{name}_nats": jnp.mean(values) for name, values in terms.items()}
        if model.has_codes:
            figures |= evaluate.code_usage(model.apply, params, x)
        return figures, evaluate.active_units(model.apply, params, x, key())

    return jax.jit(train.over_runs(compute, mode, shared=1, over=devices))


@functools.lru_cache(maxsize=4)
def _make_importance_weights(model: models.VAE, num_samples: int, devices: Mesh, mode: str) -> Callable:
    batch_size = _decoded(devices, mode) // CHUNK

    def compute(params, x, first):
        return evaluate.importance_weights(model.apply, params, x, key(), num_samples, batch_size, CHUNK, first)

    return jax.jit(train.over_runs(compute, mode, shared=2, over=devices))


def mode_of(devices: Mesh, params: Any) -> str:
    """The mode of `train.over_runs` for these runs: side by side if a device has several of them."""
    return "vmap" if len(jax.tree.leaves(params)[0]) > devices.shape["run"] else "map"


# The figures of the moving average of the parameters that are kept, beside those of the parameters.
OF_AVERAGE = ("elbo_nats", "test_elbo_nats", "test_nll_nats")


def with_average(figures: Row, averaged: Row) -> Row:
    """The figures of a run, and those of the moving average of its parameters with the prefix ema_."""
    return figures | {f"ema_{name}": averaged[name] for name in OF_AVERAGE if name in averaged}


def bound(model: models.VAE, devices: Mesh, params: Any, x: jax.Array) -> list[Row]:
    """The ELBO, rate and distortion of each run (nats, means over the images x), its active units and its use of codes.

    Active units are left out if x is a single image: nothing varies between images then.

    Args:
      params: The parameters of all runs, with a leading axis of runs.
      x: The images, `[N, H, W, C]`, as `mesh.everywhere` places them.
    """
    rows: list[Row] = []
    for _, part in parts(devices, params, image_bytes(devices, x)):
        figures, units = mesh.fetch(devices, _make_bound(model, devices, mode_of(devices, part))(part, x))
        for i in range(len(units[0])):
            row = {name: values[i].item() for name, values in figures.items()}
            if len(x) > 1:
                row["active_units"] = sum(layer[i].item() for layer in units)
                if len(units) > 1:
                    row["active_units_by_layer"] = "+".join(str(layer[i].item()) for layer in units)
            rows.append(row)
    return rows


def test_figures(
    model: models.VAE, devices: Mesh, state: train.TrainState, data: datasets.Dataset, run: Settings, eval_samples: int
) -> Iterator[dict[int, Row]]:
    """The test figures of all runs by their numbers, of as many runs at a time as are evaluated together.

    -log p(x) is the importance-weighted bound with K = eval_samples, in nats, the mean over the test images. The images
    that are done are shown by `phases.images`.

    Args:
      state: The states of all runs, with a leading axis of runs.
      run: The settings of any of the runs.
    """
    runs = len(jax.tree.leaves(state.params["model"])[0])
    total = runs * len(data.test) * (2 if state.ema else 1)
    with phases.images(total, f"evaluating, K={eval_samples}") as count:
        figures = _test_figures(model, devices, state.params["model"], data, run, eval_samples, count)
        if not state.ema:
            yield from figures
            return
        averaged = _test_figures(model, devices, state.ema, data, run, eval_samples, count)
        for rows, averages in zip(figures, averaged, strict=True):
            yield {i: with_average(row, averages[i]) for i, row in rows.items()}


def _test_figures(
    model: models.VAE,
    devices: Mesh,
    params: Any,
    data: datasets.Dataset,
    run: Settings,
    eval_samples: int,
    count: Callable[[int], None],
) -> Iterator[dict[int, Row]]:
    x = pixels(data, "test")
    placed = mesh.everywhere(devices, x)
    for first, part in parts(devices, params, image_bytes(devices, x)):
        rows = bound(model, devices, part, placed)
        weights = importance_weights(model, devices, part, x, eval_samples, count)
        for i, values in enumerate(zip(*weights.values(), strict=True)):
            rows[i] |= weight_figures(dict(zip(weights, values, strict=True)))
        yield {first + i: _test_row(row, data, run) for i, row in enumerate(rows)}


def weight_figures(weights: dict[str, np.ndarray]) -> Row:
    """The figures of one run from the `importance_weights` of its images, `[N]` each.

    `heavy_tail_share` is the share of images with too large a Pareto k, among those that have a k. It is left out if no
    image has one, as with few samples.
    """
    mean = lambda values: values.mean(dtype=np.float64).item()
    row = {"nll_nats": -mean(weights["log_likelihood"]), "ess_share": mean(weights["ess_share"])}
    known = weights["pareto_k"][~np.isnan(weights["pareto_k"])]
    return row | ({"heavy_tail_share": mean(known > LARGEST_PARETO_K)} if len(known) else {})


def importance_weights(
    model: models.VAE,
    devices: Mesh,
    params: Any,
    x: np.ndarray,
    num_samples: int,
    count: Callable[[int], None] = lambda images: None,
) -> dict[str, np.ndarray]:
    """`vae.evaluate.importance_weights` of each run and image x `[N, H, W, C]`: arrays `[runs, N]`.

    Args:
      params: The parameters of the runs, with a leading axis. All runs are evaluated at once.
      count: Called after each slice of images with the number of its images, an image of each run being counted.
    """
    compute = _make_importance_weights(model, num_samples, devices, mode_of(devices, params))
    runs = len(jax.tree.leaves(params)[0])
    values = []
    for i in range(0, len(x), SLICE):
        images = x[i : i + SLICE]
        values.append(mesh.fetch(devices, compute(params, mesh.everywhere(devices, images), np.int32(i))))
        count(runs * len(images))
    return {name: np.concatenate([value[name] for value in values], axis=1) for name in values[0]}


def _test_row(figures: Row, data: datasets.Dataset, run: Settings) -> Row:
    """The figures of a run under their names in `results.FIGURES`, some of which begin with test_."""
    row = {f"test_{name}" if f"test_{name}" in results.FIGURES else name: value for name, value in figures.items()}
    if run.binarization == "none" and (data.levels or data.has_counts):  # floats have no grey level
        row["test_bits_per_dim"] = bits_per_dim(row["test_nll_nats"], data, build(run, "likelihood"))
    return row
