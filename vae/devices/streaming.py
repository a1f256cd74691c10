"""Trains on images that stay on the disk or in the host's memory, and come to the device in chunks of steps.

    epoch = Epoch(order, chunk, images, "map", mesh, state, values)          compiled
    state, metrics = epoch(state, values, images)

The order of the images is the same as in training from the device's memory (`train.make_order`), and is a pure function
of (seed, step). So a streamed run equals the run that is not streamed, and is resumed in the same way. Grain's threads
read and decode the next chunk while the device works on the current chunk. Each process reads only the parts of a batch
that its own devices need.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from vae import train
from vae.devices import mesh

CHUNK_BYTES = 2**28  # the size of a chunk of images; two chunks are on the device at once


class Epoch:
    """A compiled epoch of all runs, `epoch(state, values, images) -> (state, metrics)`.

    The epoch has the same results as the epoch of `train.make_epoch` under `train.over_runs`.

    Args:
      order: `order(values, step) -> [steps, B]`, the indices of one run's images in the epoch that starts at `step`.
      chunk: `chunk(state, values, batches [T, B, H, W, C]) -> (state, metrics [T])`, the next T steps of one run.
      images: The images; `images[indices]` is `[len(indices), H, W, C]`. Only their shape and dtype are read here.
      mode: As in `train.over_runs`.
      over: As in `train.over_runs`.
      state: The state of all runs, or its shapes as `mesh.over_runs_of` makes them.
      values: The array-valued settings of all runs, or their shapes as `mesh.over_runs_of` makes them.
    """

    def __init__(
        self, order: Callable, chunk: Callable, images: Any, mode: str, over: Mesh, state: PyTree, values: Any
    ):
        self.over = over
        order = jax.jit(train.over_runs(order, mode, over=over))
        chunk = jax.jit(train.over_runs(chunk, mode, over=over))
        finish = jax.jit(train.over_runs(_finish_epoch, "vmap", over=over))
        runs, steps, batch_size = jax.eval_shape(order, values, state.step).shape
        self.size = _steps_of_chunk(images, runs, steps, batch_size)
        sizes = [min(self.size, steps - start) for start in range(0, steps, self.size)]
        shape = lambda size: (runs, size, batch_size, *images.shape[1:])
        batches = {size: mesh.shape_of_batches(over, shape(size), images.dtype) for size in set(sizes)}
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) // over.shape["run"]
        chunk_bytes = math.prod(shape(self.size)) * images.dtype.itemsize // over.size
        self.additional_bytes = 2 * state_bytes + chunk_bytes
        metrics = {size: jax.eval_shape(chunk, state, values, batches[size])[1] for size in batches}
        metrics = mesh.over_runs_of(over, [metrics[size] for size in sizes])
        self.order = order.lower(values, state.step).compile()
        self.chunks = {size: chunk.lower(state, values, batches[size]).compile() for size in batches}
        self.finish = finish.lower(state, state, metrics).compile()

    def __call__(self, start: train.TrainState, values: Any, images: Any) -> tuple[train.TrainState, dict[str, Array]]:
        state = start
        metrics_of_chunks = []
        order = mesh.fetch(self.over, self.order(values, start.step))
        for batches in chunks(images, order, self.over, self.size):
            state, metrics = self.chunks[batches.shape[1]](state, values, batches)
            if metrics_of_chunks:
                jax.block_until_ready(metrics_of_chunks[-1])  # so that the device never holds three chunks
            metrics_of_chunks.append(metrics)
        return self.finish(start, state, metrics_of_chunks)

    def memory(self) -> tuple[int, float]:
        """The bytes that the epoch needs on each device, and the bytes that are free there.

        Besides the program of a chunk and its arguments, the epoch needs the chunk that is being read, the state at the
        start of the epoch, and the state before the chunk.
        """
        needed, free = mesh.memory(self.over, self.chunks[self.size])
        return needed + self.additional_bytes, free


def chunks(images: Any, order: np.ndarray, over: Mesh, size: int) -> Iterator[Array]:
    """The images in the order `[runs, steps, B]`, as one array `[runs, T, B, H, W, C]` for each chunk of T steps.

    T is `size`; the last chunk may be smaller.
    """
    import grain

    runs, _, batch_size = order.shape
    parts = mesh.parts_of_batches(over, runs, batch_size)
    source = grain.MapDataset.source(_Steps(images, [order[run, :, batch] for run, batch in parts]))
    threads = min(16, os.cpu_count() or 1, size)  # grain warns of more threads than steps to prefetch
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=size)
    for read in source.to_iter_dataset(options).batch(size, drop_remainder=False):
        yield mesh.batches_of_parts(over, [part.swapaxes(0, 1) for part in read], (runs, batch_size))


def _steps_of_chunk(images: Any, runs: int, steps: int, batch_size: int) -> int:
    image = math.prod(images.shape[1:]) * images.dtype.itemsize
    return max(1, min(steps, CHUNK_BYTES // (runs * batch_size * image)))


def _finish_epoch(start: PyTree, state: PyTree, metrics: list[dict[str, Array]]) -> tuple[PyTree, dict[str, Array]]:
    """`train.finish_epoch` with the metrics `[T]` of each chunk."""
    return train.finish_epoch(start, state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *metrics))


class _Steps:
    """A source for Grain, whose element i holds the images of step i.

    An element is a tuple with one array `[runs, B, H, W, C]` for each part `[runs, steps, B]` of the order.
    """

    def __init__(self, images: Any, orders: list[np.ndarray]):
        self.images = images
        self.orders = orders

    def __len__(self) -> int:
        return self.orders[0].shape[1]

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        return tuple(self._read(order[:, step]) for order in self.orders)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        images = self.images[indices.reshape(-1)]
        return images.reshape(*indices.shape, *images.shape[1:])
