"""Spreads runs and batches over devices. No other file knows meshes.

    mesh = make(runs, batch_size)                              axes `run` and `data`, over all devices
    epoch = jax.jit(train.over_runs(epoch, "vmap", shared=1, over=mesh), donate_argnums=0)
    state, metrics = epoch(over_runs_of(mesh, state), over_runs_of(mesh, values), everywhere(mesh, images))
    some_runs(mesh, state, 8, 4)                               runs 8 to 11
    fetch(mesh, metrics)                                       all runs, as NumPy arrays

Runs exchange nothing. A batch is split inside the step, and XLA inserts the sum over the gradients of the parts. The
random keys and the order of the data do not depend on the devices, so the numbers are those of one device, up to the
order of summation. On one device, the compiled program is the same as without a mesh.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree, Shaped

from vae.devices import host_memory

_BATCHES = P("run", None, "data")


def make(runs: int, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh for `runs` runs with batches of `batch_size` images.

    The size of the axis `run` is the largest number of devices that divides `runs`. The size of the axis `data` is the
    largest number that divides `batch_size` and for which there are enough devices. The remaining devices stay idle.
    All processes contribute the same number of devices. If that is impossible, each process does all the work on its
    own devices.

    Args:
      devices: The devices to use; by default all.
    """
    devices = jax.devices() if devices is None else devices
    owners = sorted({device.process_index for device in devices})
    divisors = lambda number: [n for n in range(1, len(devices) + 1) if number % n == 0]
    shapes = [(run, data) for run in divisors(runs) for data in divisors(batch_size) if run * data <= len(devices)]
    shapes = [shape for shape in shapes if math.prod(shape) % len(owners) == 0]
    if not shapes:
        return make(runs, batch_size, jax.local_devices())
    shape = max(shapes)
    each = math.prod(shape) // len(owners)
    used = [device for owner in owners for device in [d for d in devices if d.process_index == owner][:each]]
    return jax.make_mesh(shape, ("run", "data"), axis_types=(AxisType.Auto, AxisType.Auto), devices=used)


def describe(mesh: Mesh, runs: int, batch_size: int) -> str:
    """A line that says what each device does."""
    devices = jax.device_count()
    idle = devices - mesh.size
    run, data = mesh.shape["run"], mesh.shape["data"]
    share = f"{runs // run} of {runs} run{'s' if runs > 1 else ''}"
    share += f", {batch_size // data} of {batch_size} images of each batch" if data > 1 else ""
    rest = f"; {idle} idle, because neither the runs nor the batch can be divided further" if idle else ""
    return f"{devices} devices, on each: {share}{rest}"


def over_runs_of(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays with a leading axis of runs, spread over the mesh axis `run`.

    Shapes, as of `jax.eval_shape`, get the same sharding.
    """
    return _place(mesh, tree, P("run"))


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays of which every device gets a copy. Shapes, as of `jax.eval_shape`, get the same sharding."""
    return _place(mesh, tree, P())


def _place(mesh: Mesh, tree: PyTree, spec: P) -> PyTree:
    sharding = NamedSharding(mesh, spec)

    def place(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf if mesh.size == 1 else leaf.update(sharding=sharding)
        if mesh.size == 1:
            return jnp.asarray(leaf)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree)


def parts_of_batches(mesh: Mesh, runs: int, batch_size: int) -> list[tuple[slice, slice]]:
    """The parts of batches `[runs, B, ...]` that this process's devices hold, as slices of the runs and of B.

    Each part is listed once, even if several devices hold it.
    """
    indices = NamedSharding(mesh, P("run", "data")).addressable_devices_indices_map((runs, batch_size))
    bounds = {_bounds(index, runs, batch_size) for index in indices.values()}
    return [(slice(*run), slice(*batch)) for run, batch in sorted(bounds)]


def batches_of_parts(mesh: Mesh, parts: list[np.ndarray], shape: tuple[int, int]) -> Array:
    """Batches `[runs, steps, B, ...]`, put together from the parts that this process has read.

    Args:
      parts: The parts in the order of `parts_of_batches`.
      shape: The pair (runs, B).
    """
    if mesh.size == 1:
        return jax.device_put(parts[0])
    keys = [(part[0].start, part[1].start) for part in parts_of_batches(mesh, *shape)]
    part_at = dict(zip(keys, parts, strict=True))

    def part(index):
        (run, _), (batch, _) = _bounds((index[0], index[2]), *shape)
        return part_at[run, batch]

    whole = (shape[0], parts[0].shape[1], shape[1], *parts[0].shape[3:])
    return jax.make_array_from_callback(whole, NamedSharding(mesh, _BATCHES), part)


def shape_of_batches(mesh: Mesh, shape: tuple[int, ...], dtype: np.dtype) -> jax.ShapeDtypeStruct:
    """The shape of batches `[runs, steps, B, ...]`, with the sharding that `batches_of_parts` gives them."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, _BATCHES) if mesh.size > 1 else None)


def _bounds(index: tuple[slice, ...], *sizes: int) -> tuple[tuple[int, int], ...]:
    """The start and the stop of each slice."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, sizes, strict=True))


def some_runs(mesh: Mesh, tree: PyTree, first: int, number: int) -> PyTree:
    """The arrays of `number` runs from run `first` on, spread over the mesh axis `run`.

    `number` must be a multiple of the axis's size.
    """
    return _slice(mesh, number)(tree, first)


def fetch(mesh: Mesh, tree: PyTree) -> PyTree:
    """The arrays of all runs, as NumPy arrays in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    gather = lambda leaf: np.asarray(_gather(mesh)(leaf).addressable_data(0))  # one array at a time, to save memory
    return jax.tree.map(gather, tree)


@functools.cache
def _slice(mesh: Mesh, number: int) -> Callable:
    pick = lambda tree, first: jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, number), tree)
    return jax.jit(pick, out_shardings=NamedSharding(mesh, P("run")) if mesh.size > 1 else None)


@functools.cache
def _gather(mesh: Mesh) -> Callable:
    return jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, P()))


def memory(mesh: Mesh, compiled: jax.stages.Compiled) -> tuple[int, float]:
    """The bytes that a compiled program and its arguments need on each device, and the bytes that are free there."""
    needed = 0
    if sizes := compiled.memory_analysis():  # some backends have none
        needed = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
        needed += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return needed, stats["bytes_limit"] - stats["bytes_in_use"]
    return needed, host_memory.free() / len(mesh.local_devices)  # CPU devices share the host's memory


def shard(function: Callable, mesh: Mesh, shared: int) -> Callable:
    """A function that applies `function` on each device to the device's own runs.

    The leading axes of arguments and results are spread over `run`. The last `shared` arguments are on every device.
    """
    if mesh.size == 1:
        return function

    def sharded(*args):
        specs = (P("run"),) * (len(args) - shared) + (P(),) * shared
        # The axis `data` is not among the axis_names, so XLA itself divides the arrays that are spread over `data`.
        each = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P("run"), axis_names={"run"}, check_vma=False
        )
        return each(*args)

    return sharded


def split_batch(x: Shaped[Array | np.ndarray, "*shape"]) -> Shaped[Array | np.ndarray, "*shape"]:
    """x `[B, ...]` with its batch spread over `data`. Outside a function given to `shard`, x itself."""
    return jax.lax.with_sharding_constraint(x, P("data")) if _splits_batches() else x


def by_rows(function: Callable, x: Float[Array | np.ndarray, "..."], lead: int) -> Float[Array, "..."]:
    """Applies `function`, from `[rows, *event]` to `[rows, ...]`, to x `[..., B, *event]`.

    The first `lead` axes of x become one axis of rows. If batches are split, B becomes the major part of this axis,
    because XLA would gather the whole batch on every device if B were the minor part.
    """
    batch = lead - 1 if lead and _splits_batches() else 0
    x = jnp.moveaxis(x, batch, 0)
    out = function(x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:]))
    return jnp.moveaxis(out.reshape(*x.shape[:lead], *out.shape[1:]), 0, batch)


def _splits_batches() -> bool:
    return jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1
