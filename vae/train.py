"""One pure step, scanned over an epoch, mapped over runs. The one room that knows optax.

    init = make_init(model, estimator, tx, x)           state = init(key)
    step = make_step(model.apply, objective, estimator, tx)     state, metrics = step(state, key, x)
    epoch = jax.jit(make_epoch(step, batch_size), donate_argnums=0)     state, metrics = epoch(state, key, data)

The data stay on the device. The order of the data and every key are pure functions of (key, state.step), so a resumed
run is the same run, bit for bit; on a GPU, under XLA_FLAGS=--xla_gpu_deterministic_ops=true alone. Because everything
is a function, what changes from step to step needs no machinery: a step with KL warm-up is one that makes its objective
from `state.step`, binarization is a step that draws x first.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from vae.devices import mesh
from vae.estimators.base import Estimator

PyTree = Any


class TrainState(NamedTuple):
    """All that training carries, a pytree.

    Attributes:
      params: {"model": flax variables, "estimator": what the estimator learns}.
      opt_state: optax's.
      estimator_state: what the estimator counts.
      step: `[]` int32, the number of updates made.
    """

    params: dict[str, PyTree]
    opt_state: PyTree
    estimator_state: PyTree
    step: Array


def make_init(model, estimator: Estimator, tx: optax.GradientTransformation, x: Array) -> Callable[[Array], TrainState]:
    """`init(key) -> TrainState` for batches like x `[B, H, W, C]`, of which only the shape is read: images are
    float32."""

    def init(key: Array) -> TrainState:
        key_model, key_sample, key_estimator = jax.random.split(key, 3)
        like = jnp.zeros(x.shape, jnp.float32)
        variables = model.init(key_model, like, key_sample)
        q = model.apply(variables, like, method="encode")
        learned, counted = estimator.init(key_estimator, q, like)
        params = {"model": variables, "estimator": learned}
        return TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32))

    return init


def make_step(
    apply: Callable, objective: Callable, estimator: Estimator, tx: optax.GradientTransformation
) -> Callable[[TrainState, Array, Array], tuple[TrainState, dict[str, Array]]]:
    """`step(state, key, x) -> (state, metrics)`: one update of model and estimator by one `jax.grad`.

    x is a batch `[B, H, W, C]` in [0, 1]. Metrics: `bound` (nats, the mean over the batch of the objective's value),
    `cv_loss`.
    """

    def loss_fn(params, estimator_state, key: Array, x: Array):
        def expect(q, f, reduce):
            return estimator.estimate(params["estimator"], estimator_state, key, q, f, reduce, x)

        estimate = objective(apply, params["model"], x, expect)
        bound = jnp.mean(estimate.value)
        return estimate.cv_loss - bound, (estimate.state, {"bound": bound, "cv_loss": estimate.cv_loss})

    def step(state: TrainState, key: Array, x: Array):
        grads, (estimator_state, metrics) = jax.grad(loss_fn, has_aux=True)(state.params, state.estimator_state, key, x)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, estimator_state, state.step + 1), metrics

    return step


def make_epoch(step: Callable, batch_size: int) -> Callable[[TrainState, Array, Array], tuple[TrainState, dict]]:
    """`epoch(state, key, data) -> (state, metrics)`: one pass in random order over data `[N, H, W, C]`, any dtype.

    `key` is the run's and the same in every epoch; `step` is called with the key of its own step. The last N modulo
    batch_size images of the epoch's order are left out. Metrics are means over the epoch, and `failed_step`: 0 or, if
    the bound or the state was not finite, the number of the first such step. The state is then that of the
    epoch's start, the last one known to be good; from there the same would happen again.
    """

    def epoch(start: TrainState, key: Array, data: Array):
        order = make_order(len(data), batch_size)(key, start.step)
        rows = data.reshape(len(data), -1)  # of which a gather is faster than of images
        images = lambda batch: rows[batch].reshape(batch_size, *data.shape[1:])
        return conclude(start, *make_chunk(step, images)(start, key, order))

    return epoch


def make_order(size: int, batch_size: int) -> Callable[[Array, Array], Array]:
    """`order(key, step) -> [steps, batch_size]`: which of `size` images each step of that step's epoch sees.

    Raises:
      ValueError: if there are fewer images than in a batch.
    """
    steps = size // batch_size
    if not steps:
        raise ValueError(f"batch_size={batch_size} is larger than the {size} images")

    def order(key: Array, step: Array) -> Array:
        key_order, _ = jax.random.split(key)
        order = jax.random.permutation(jax.random.fold_in(key_order, step // steps), size)
        return order[: steps * batch_size].reshape(steps, batch_size)

    return order


def make_chunk(step: Callable, images: Callable[[Array], Array] = lambda batch: batch) -> Callable:
    """`chunk(state, key, batches) -> (state, metrics)`: consecutive steps of an epoch, metrics `[T]` of each.

    `batches` `[T, B, ...]` are images, or what `images` makes images of.
    """

    def chunk(state: TrainState, key: Array, batches: Array):
        _, key_steps = jax.random.split(key)

        def body(state, batch):
            return step(state, jax.random.fold_in(key_steps, state.step), mesh.split_batch(images(batch)))

        return jax.lax.scan(body, state, batches)

    return chunk


def conclude(start: TrainState, state: TrainState, metrics: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
    """What an epoch returns, from its first and last state and the metrics `[steps]` of each of its steps."""
    steps = len(metrics["bound"])
    # Checked once an epoch: in every step it would cost a tenth of the time. A gradient that is not finite shows in
    # the bound of the step after, or in the last state.
    failed = ~jnp.append(jnp.isfinite(metrics["bound"]), all_finite(state))
    failed_step = jnp.where(jnp.any(failed), start.step + 1 + jnp.minimum(jnp.argmax(failed), steps - 1), 0)
    state = jax.tree.map(lambda new, old: jnp.where(failed_step == 0, new, old), state, start)
    return state, {**jax.tree.map(jnp.mean, metrics), "failed_step": failed_step}


def over_runs(function: Callable, mode: str, shared: int = 0, over: Mesh | None = None) -> Callable:
    """`function` over a leading axis of runs, in one program: side by side ("vmap") or one after the other ("map").

    The last `shared` arguments are the same for every run. With a mesh (`vae.mesh.make`) each device has its own part
    of the runs, or of their batches.
    """

    def mapped(*args):
        own, common = (args[:-shared], args[-shared:]) if shared else (args, ())
        if mode == "vmap":
            return jax.vmap(lambda *own: function(*own, *common))(*own)
        return jax.lax.map(lambda own: function(*own, *common), own)

    return mapped if over is None else mesh.shard(mapped, over, shared)


def all_finite(tree: PyTree) -> Array:
    """Whether every number in the tree is finite, `[]` bool."""
    return jax.tree.reduce(lambda finite, leaf: finite & jnp.all(jnp.isfinite(leaf)), tree, jnp.array(True))
