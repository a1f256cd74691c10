"""Training images that stay on the disk or in the host's memory, and come to the device in chunks of steps.

    epoch = make_epoch(order, chunk, images, "map", mesh)          state, metrics = epoch(state, values)

The order is that of training from the device's memory (`train.make_order`), a pure function of (seed, step): a streamed
run is the same run, and resumes like it. Grain's threads read and decode ahead, while the device works on the chunk
before; each process reads what its own devices have of each batch.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vae import mesh, train

CHUNK_BYTES = 2**28  # of images on the device at once, twice


def make_epoch(order: Callable, chunk: Callable, images: Any, mode: str, over: Mesh) -> Callable:
    """`epoch(state, values) -> (state, metrics)` over all runs, as `train.make_epoch`'s under `train.over_runs`.

    Args:
      order: `order(values, step) -> [steps, B]`, one run's indices of images in the epoch of that step.
      chunk: `chunk(state, values, batches [T, B, H, W, C]) -> (state, metrics [T])`, one run's next T steps.
      images: what `images[indices]` gives `[len(indices), H, W, C]` of.
      mode, over: as in `train.over_runs`.
    """
    order = jax.jit(train.over_runs(order, "vmap", over=over))
    chunk = jax.jit(train.over_runs(chunk, mode, over=over))
    conclude = jax.jit(train.over_runs(train.conclude, "vmap", over=over))

    def epoch(start, values):
        state, found = start, []
        for batches in chunks(images, mesh.fetch(over, order(values, start.step)), over):
            state, metrics = chunk(state, values, batches)
            if found:
                jax.block_until_ready(found[-1])  # so that no third chunk comes to the device
            found.append(metrics)
        return conclude(start, state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *found))

    return epoch


def chunks(images: Any, order: np.ndarray, over: Mesh, size: int | None = None) -> Iterator[Array]:
    """The images of `order` `[runs, steps, B]`: `[runs, T, B, H, W, C]` for each chunk of T steps. T is `size`, but for
    the last chunk, and by default what `CHUNK_BYTES` hold."""
    import grain

    runs, steps, batch_size = order.shape
    image = images[np.zeros(1, int)]
    size = size or max(1, min(steps, CHUNK_BYTES // (runs * batch_size * image.nbytes)))
    parts = mesh.parts_of_batches(over, runs, batch_size)
    source = grain.MapDataset.source(_Steps(images, [order[run, :, batch] for run, batch in parts]))
    options = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=size)
    for read in source.to_iter_dataset(options).batch(size, drop_remainder=False):
        yield mesh.batches_of_parts(over, [part.swapaxes(0, 1) for part in read], (runs, batch_size))


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
