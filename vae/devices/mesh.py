"""How runs and batches lie over devices: the one file that knows meshes.

    mesh = make(runs, batch_size)                              axes `run` and `data`, over all devices
    epoch = jax.jit(train.over_runs(epoch, "vmap", shared=1, over=mesh), donate_argnums=0)
    state, metrics = epoch(over_runs_of(mesh, state), over_runs_of(mesh, values), everywhere(mesh, images))
    run_of(mesh, state, 3)                                     one run, on one device
    fetch(mesh, metrics)                                       all runs, as numpy

Runs do not speak to each other. A batch is split inside of the step, and XLA adds what its parts must exchange, one sum
of gradients a step. Keys and the order of the data are global, so the numbers are those of one device, up to the order
in which they are summed. On one device a mesh is nothing: the compiled program is the one without it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae.devices import host_memory

PyTree = Any

_BATCHES = P("run", None, "data")


def make(runs: int, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh for so many runs with batches of `batch_size` images, over `devices` (all by default).

    `run` takes the most devices that divide the runs; each of these shares its batches with the most that divide
    `batch_size`, as far as there are any left. The rest stay idle. Of several processes each gives as many devices, and
    where runs and batch allow that for no number, each does all the work with its own.
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
    """What each device does, in a line."""
    devices, idle = jax.device_count(), jax.device_count() - mesh.size
    run, data = mesh.shape["run"], mesh.shape["data"]
    share = f"{runs // run} of {runs} run{'s' if runs > 1 else ''}"
    share += f", {batch_size // data} of {batch_size} images of each batch" if data > 1 else ""
    rest = f"; {idle} idle, since neither runs nor batch divide by more" if idle else ""
    return f"{devices} devices, on each: {share}{rest}"


def over_runs_of(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays whose leading axis is of runs, laid over `run`; of their shapes (`jax.eval_shape`) the shapes laid so."""
    return _place(mesh, tree, P("run"))


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays of which every device has a copy; of shapes the shapes of such."""
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
    """What this process's devices have of batches `[runs, B, ...]`: slices of the runs and of B, each part once."""
    where = NamedSharding(mesh, P("run", "data")).addressable_devices_indices_map((runs, batch_size))
    return [
        (slice(*run), slice(*batch)) for run, batch in sorted({_bounds(i, runs, batch_size) for i in where.values()})
    ]


def batches_of_parts(mesh: Mesh, parts: list[np.ndarray], shape: tuple[int, int]) -> Array:
    """Batches `[runs, steps, B, ...]` from this process's parts of them, in the order of `parts_of_batches`; `shape` is
    (runs, B)."""
    if mesh.size == 1:
        return jax.device_put(parts[0])
    keys = [(part[0].start, part[1].start) for part in parts_of_batches(mesh, *shape)]
    found = dict(zip(keys, parts, strict=True))

    def part(index):
        (run, _), (batch, _) = _bounds((index[0], index[2]), *shape)
        return found[run, batch]

    whole = (shape[0], parts[0].shape[1], shape[1], *parts[0].shape[3:])
    return jax.make_array_from_callback(whole, NamedSharding(mesh, _BATCHES), part)


def shape_of_batches(mesh: Mesh, shape: tuple[int, ...], dtype: np.dtype) -> jax.ShapeDtypeStruct:
    """Of batches `[runs, steps, B, ...]` as `batches_of_parts` makes them."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, _BATCHES) if mesh.size > 1 else None)


def _bounds(index: tuple[slice, ...], *sizes: int) -> tuple[tuple[int, int], ...]:
    """Start and stop of each slice."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, sizes, strict=True))


def run_of(mesh: Mesh, tree: PyTree, i: int) -> PyTree:
    """Run i of arrays laid over `run`, whole, on one device."""
    if mesh.size == 1:
        return jax.tree.map(lambda leaf: leaf[i], tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), _pick(mesh)(tree, i))


def fetch(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays of all runs, as numpy."""
    if mesh.size == 1:
        return jax.device_get(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), _gather(mesh)(tree))


@functools.cache
def _pick(mesh: Mesh) -> Callable:
    pick = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)
    return jax.jit(pick, out_shardings=NamedSharding(mesh, P()))


@functools.cache
def _gather(mesh: Mesh) -> Callable:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def memory(mesh: Mesh, compiled: jax.stages.Compiled) -> tuple[int, float]:
    """Bytes that a compiled program takes on each device, with its arguments, and those that are free there."""
    sizes = compiled.memory_analysis()
    needed = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    needed += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return needed, stats["bytes_limit"] - stats["bytes_in_use"]
    return needed, host_memory.free() / len(mesh.local_devices)  # devices of the processor share it


def shard(function: Callable, mesh: Mesh, shared: int) -> Callable:
    """`function` on each device's own runs: the leading axes of arguments and results are laid over `run`, but for the
    last `shared` arguments, which are everywhere."""
    if mesh.size == 1:
        return function

    def sharded(*args):
        specs = (P("run"),) * (len(args) - shared) + (P(),) * shared
        # Without `data` among the axis_names, what lies over it is XLA's to divide.
        each = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P("run"), axis_names={"run"}, check_vma=False
        )
        return each(*args)

    return sharded


def split_batch(x: Array) -> Array:
    """x `[B, ...]` with its batch laid over `data`, in a function given to `shard`; elsewhere x as it is."""
    return jax.lax.with_sharding_constraint(x, P("data")) if _splits_batches() else x


def by_rows(function: Callable, x: Array | np.ndarray, lead: int) -> Array:
    """`function` `[rows, *event]` to `[rows, ...]` of x `[..., B, *event]`, whose first `lead` axes become one of rows.

    Where batches are split, B is the major part of that axis: as the minor one it would be gathered on every device.
    """
    batch = lead - 1 if lead and _splits_batches() else 0
    x = jnp.moveaxis(x, batch, 0)
    out = function(x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:]))
    return jnp.moveaxis(out.reshape(*x.shape[:lead], *out.shape[1:]), 0, batch)


def _splits_batches() -> bool:
    return jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1
