"""Training images that stay on the disk or in the host's memory, and come to the device in chunks of steps.

    epoch = Epoch(order, chunk, images, "map", mesh, state, values)          compiled
    state, metrics = epoch(state, values, images)

The order is that of training from the device's memory (`train.make_order`), a pure function of (seed, step): a streamed
run is the same run, and resumes like it. Grain's threads read and decode ahead, while the device works on the chunk
before; each process reads what its own devices have of each batch.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vae import train
from vae.devices import mesh

CHUNK_BYTES = 2**28  # of images on the device at once, twice

PyTree = Any


class Epoch:
    """`epoch(state, values, images) -> (state, metrics)` over all runs, compiled: what `train.make_epoch`'s is under
    `train.over_runs`.

    Args:
      order: `order(values, step) -> [steps, B]`, one run's indices of images in the epoch of that step.
      chunk: `chunk(state, values, batches [T, B, H, W, C]) -> (state, metrics [T])`, one run's next T steps.
      images: what `images[indices]` gives `[len(indices), H, W, C]` of; here only their shape and dtype are read.
      mode, over: as in `train.over_runs`.
      state, values: of all runs, or their shapes as `mesh.over_runs_of` makes them.
    """

    def __init__(
        self, order: Callable, chunk: Callable, images: Any, mode: str, over: Mesh, state: PyTree, values: Any
    ):
        self.over = over
        order = jax.jit(train.over_runs(order, "vmap", over=over))
        chunk = jax.jit(train.over_runs(chunk, mode, over=over))
        conclude = jax.jit(train.over_runs(_conclude, "vmap", over=over))
        runs, steps, batch_size = jax.eval_shape(order, values, state.step).shape
        self.size = _steps_of_chunk(images, runs, steps, batch_size)
        sizes = [min(self.size, steps - start) for start in range(0, steps, self.size)]
        shape = lambda size: (runs, size, batch_size, *images.shape[1:])
        batches = {size: mesh.shape_of_batches(over, shape(size), images.dtype) for size in set(sizes)}
        of_state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) // over.shape["run"]
        self.beside = 2 * of_state + math.prod(shape(self.size)) * images.dtype.itemsize // over.size
        metrics = {size: jax.eval_shape(chunk, state, values, batches[size])[1] for size in batches}
        metrics = mesh.over_runs_of(over, [metrics[size] for size in sizes])
        self.order = order.lower(values, state.step).compile()
        self.chunks = {size: chunk.lower(state, values, batches[size]).compile() for size in batches}
        self.conclude = conclude.lower(state, state, metrics).compile()

    def __call__(self, start: train.TrainState, values: Any, images: Any) -> tuple[train.TrainState, dict[str, Array]]:
        state, found = start, []
        order = mesh.fetch(self.over, self.order(values, start.step))
        for batches in chunks(images, order, self.over, self.size):
            state, metrics = self.chunks[batches.shape[1]](state, values, batches)
            if found:
                jax.block_until_ready(found[-1])  # so that no third chunk comes to the device
            found.append(metrics)
        return self.conclude(start, state, found)

    def memory(self) -> tuple[int, float]:
        """As `mesh.memory`: of a chunk, the one that is read meanwhile, the epoch's first state, and the one before."""
        needed, free = mesh.memory(self.over, self.chunks[self.size])
        return needed + self.beside, free


def chunks(images: Any, order: np.ndarray, over: Mesh, size: int) -> Iterator[Array]:
    """The images of `order` `[runs, steps, B]`: `[runs, T, B, H, W, C]` for each chunk of T steps. T is `size`, but for
    the last chunk."""
    import grain

    runs, _, batch_size = order.shape
    parts = mesh.parts_of_batches(over, runs, batch_size)
    source = grain.MapDataset.source(_Steps(images, [order[run, :, batch] for run, batch in parts]))
    options = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=size)
    for read in source.to_iter_dataset(options).batch(size, drop_remainder=False):
        yield mesh.batches_of_parts(over, [part.swapaxes(0, 1) for part in read], (runs, batch_size))


def _steps_of_chunk(images: Any, runs: int, steps: int, batch_size: int) -> int:
    image = math.prod(images.shape[1:]) * images.dtype.itemsize
    return max(1, min(steps, CHUNK_BYTES // (runs * batch_size * image)))


def _conclude(start: PyTree, state: PyTree, metrics: list[dict[str, Array]]) -> tuple[PyTree, dict[str, Array]]:
    """`train.conclude` with the metrics `[T]` of each chunk."""
    return train.conclude(start, state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *metrics))


class _Steps:
    """For Grain: step i is a tuple, for each part `[runs, steps, B]` of the order its images `[runs, B, H, W, C]`."""

    def __init__(self, images: Any, orders: list[np.ndarray]):
        self.images, self.orders = images, orders

    def __len__(self) -> int:
        return self.orders[0].shape[1]

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        return tuple(self._read(order[:, step]) for order in self.orders)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        images = self.images[indices.reshape(-1)]
        return images.reshape(*indices.shape, *images.shape[1:])
