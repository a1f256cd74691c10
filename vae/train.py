"""Training: a pure step, an epoch that scans over steps, and a map over runs. No other module of vae imports optax.

    init = make_init(model, estimator, tx, x)           state = init(key)
    step = make_step(model.apply, objective, estimator, tx)     state, metrics = step(state, key, x)
    epoch = jax.jit(make_epoch(step, batch_size), donate_argnums=0)     state, metrics = epoch(state, key, data)

The data stay on the device. The order of the data and every key are pure functions of (key, state.step), so a resumed
run equals an uninterrupted run bit for bit. On a GPU, this also needs XLA_FLAGS=--xla_gpu_deterministic_ops=true.

Settings that change from step to step need no special support, because a step is a function. For KL warm-up, write a
step that makes its objective from `state.step`. For dynamic binarization, write a step that first draws x.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from vae import objectives
from vae.devices import mesh
from vae.estimators.contract import Estimate, Estimator, bind
from vae.objectives import Objective

# The parts of `TrainState.params`, which an optimizer may treat differently: the labels of `optax.partition`.
PARTS = {"model": "model", "estimator": "estimator"}


class TrainState(NamedTuple):
    """Everything that training carries from step to step; a pytree.

    Attributes:
      params: {"model": flax variables, "estimator": the estimator's own params}.
      opt_state: the state of the optax optimizer.
      estimator_state: the estimator's state, such as moving averages.
      step: `[]` int32, the number of updates made.
      ema: the exponential moving average of params["model"] that `make_step` keeps if it is asked to; else None.
    """

    params: dict[str, PyTree]
    opt_state: PyTree
    estimator_state: PyTree
    step: Int[Array, "*runs"]
    ema: PyTree = None


def make_init(
    model: nn.Module, estimator: Estimator, tx: optax.GradientTransformation, x: Any, ema: float = 0.0
) -> Callable[[PRNGKeyArray], TrainState]:
    """Returns `init(key) -> TrainState` for batches with the shape of x, `[B, H, W, C]`, or a pytree of arrays.

    The model gets an array as float32; the arrays of a pytree keep their dtypes, so that labels may be integers. Only
    the shape of x is used, except by prior=vamp, whose pseudo-inputs start at the images x in [0, 1]. `ema` is that of
    `make_step`.
    """

    def init(key: PRNGKeyArray) -> TrainState:
        key_model, key_sample, key_estimator = jax.random.split(key, 3)
        is_array = jax.tree_util.treedef_is_leaf(jax.tree.structure(x))
        like = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.float32 if is_array else None), x)
        images = jnp.asarray(x, jnp.float32) if isinstance(x, jax.Array | np.ndarray) else like
        variables = model.init(key_model, images, key_sample)
        q = model.apply(variables, like, method="encode")
        learned, counted = estimator.init(key_estimator, q, like)
        params = {"model": variables, "estimator": learned}
        average = jax.tree.map(jnp.copy, variables) if ema else None  # a copy, because epochs donate the state's memory
        return TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32), average)

    return init


def make_step(
    apply: Callable | None,
    objective: Objective,
    estimator: Estimator,
    tx: optax.GradientTransformation,
    ema: float = 0.0,
) -> Callable[[TrainState, PRNGKeyArray, PyTree], tuple[TrainState, dict[str, Array]]]:
    """Returns `step(state, key, x) -> (state, metrics)`, which updates the model and the estimator with one `jax.grad`.

    x is a batch `[B, H, W, C]` in [0, 1], or a pytree of arrays with the axis B. The metrics are `bound`, the mean of
    the objective's value over the batch in nats, and `cv_loss`, the loss of the estimator's own params.

    With `ema` above 0, the state carries an average of the model's variables after each step. The weight of a step
    falls by the factor `ema` with each later step, and the weights of all steps have the sum 1.

    Raises:
      ValueError: if `ema` is below 0, or is not below 1; from the step, if the objective's value is not `[B]`, or if
        the state has no average.
      TypeError: if `objective` is a factory of objectives; from the step, if the objective returns something other than
        an `Estimate`.
    """
    objectives.BY_NAME.refuse_factory(objective)
    if not 0 <= ema < 1:
        raise ValueError(f"ema must be at least 0 and below 1, got {ema}")

    def loss_fn(params, estimator_state, key, x):
        expect = bind(estimator, params["estimator"], estimator_state, key, context=x)
        estimate = objective(apply, params["model"], x, expect)
        if not isinstance(estimate, Estimate):
            raise TypeError(f"an objective must return a vae.estimators.Estimate, got {type(estimate).__name__}")
        if jnp.ndim(estimate.value) != 1:
            raise ValueError(
                f"the value of an objective must have the shape [B], got {list(jnp.shape(estimate.value))}"
            )
        bound = jnp.mean(estimate.value)
        return estimate.cv_loss - bound, (estimate.state, {"bound": bound, "cv_loss": estimate.cv_loss})

    def step(state: TrainState, key: PRNGKeyArray, x: PyTree):
        if ema and state.ema is None:
            raise ValueError(f"{ema=} needs a state.ema, a copy of the model's variables at first; see make_init")
        grads, (estimator_state, metrics) = jax.grad(loss_fn, has_aux=True)(state.params, state.estimator_state, key, x)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = _average(state.ema, params["model"], state.step + 1, ema) if ema else None
        return TrainState(params, opt_state, estimator_state, state.step + 1, average), metrics

    return step


def _average(before: PyTree, new: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """The average after `step` steps, from the average before the last step and from the newest values."""
    weight = (1 - decay) / -jnp.expm1(step * math.log(decay))  # over the sum of all weights, 1 - decay^step
    return jax.tree.map(lambda old, value: old + weight * (value - old), before, new)


def make_epoch(step: Callable, batch_size: int) -> Callable[[TrainState, Array, PyTree], tuple[TrainState, dict]]:
    """Returns `epoch(state, key, data) -> (state, metrics)`: one pass in random order over data `[N, H, W, C]`.

    `step(state, key, x) -> (state, metrics)` may be any function. The state is a pytree of arrays with the attribute
    `step`, an integer that each step raises by 1. The metrics are a dict of arrays with the key `bound`.

    The data may have any dtype, and may be a pytree of arrays with the axis N, such as images with labels. `key`
    belongs to the run and is the same in every epoch; each step derives its own key. The last N modulo batch_size
    images of the epoch's order are left out. The metrics are the means over the epoch and `failed_step`, the number
    of the first step at which the bound or the state was not finite, or 0 if there was none. After a failure the
    epoch returns the state that it started from, the last state known to be finite.

    Raises:
      ValueError: from `epoch`, if batch_size is below 1, if there are fewer images than in a batch, or if the arrays of
        a pytree differ in length.
    """

    def epoch(start: PyTree, key: PRNGKeyArray, data: PyTree):
        sizes = {len(leaf) for leaf in jax.tree.leaves(data)}
        if len(sizes) != 1:
            raise ValueError(f"the arrays of the data must have one length, got {sorted(sizes)}")
        order = make_order(*sizes, batch_size)(key, start.step)
        rows = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1), data)  # faster to gather than images
        gather = lambda rows, leaf, batch: rows[batch].reshape(batch_size, *leaf.shape[1:])
        images = lambda batch: jax.tree.map(partial(gather, batch=batch), rows, data)
        return finish_epoch(start, *make_chunk(step, images)(start, key, order))

    return epoch


def make_order(size: int, batch_size: int) -> Callable[[Array, Array], Array]:
    """Returns `order(key, step) -> [steps, batch_size]`: the image indices for each step of the epoch that contains
    `step`. The indices are below `size`.

    Raises:
      ValueError: if batch_size is below 1, or if there are fewer images than in a batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    steps = size // batch_size
    if not steps:
        raise ValueError(f"batch_size={batch_size} is larger than the {size} images; choose a smaller batch_size")

    def order(key: PRNGKeyArray, step: Array) -> Array:
        key_order, _ = jax.random.split(key)
        order = jax.random.permutation(jax.random.fold_in(key_order, step // steps), size)
        return order[: steps * batch_size].reshape(steps, batch_size)

    return order


def make_chunk(step: Callable, images: Callable[[Array], Array] = lambda batch: batch) -> Callable:
    """Returns `chunk(state, key, batches) -> (state, metrics)`: T consecutive steps of an epoch, with metrics `[T]`.

    `step` is that of `make_epoch`. `batches` `[T, B, ...]` holds images, or anything that the function `images` turns
    into images, such as indices.
    """

    def chunk(state: PyTree, key: PRNGKeyArray, batches: Array):
        _, key_steps = jax.random.split(key)

        def body(state, batch):
            return step(state, jax.random.fold_in(key_steps, state.step), jax.tree.map(mesh.split_batch, images(batch)))

        return jax.lax.scan(body, state, batches)

    return chunk


def finish_epoch(start: PyTree, state: PyTree, metrics: dict[str, Array]) -> tuple[PyTree, dict[str, Array]]:
    """The result of an epoch, from its first state, its last state and the metrics `[steps]` of its steps.

    Returns:
      The last state, or the first state if the epoch failed; and the metrics that `make_epoch` describes.
    """
    steps = len(metrics["bound"])
    # A gradient that is not finite shows in the bound of the next step or, after the last step, in the last state. To
    # check the state in every step would take a tenth of the training time.
    failed = ~jnp.append(jnp.isfinite(metrics["bound"]), all_finite(state))  # [steps + 1]
    first_failure = jnp.minimum(jnp.argmax(failed), steps - 1)  # a failure in the last state counts for the last step
    failed_step = jnp.where(jnp.any(failed), start.step + 1 + first_failure, 0)
    state = jax.tree.map(lambda new, old: jnp.where(failed_step == 0, new, old), state, start)
    return state, {**jax.tree.map(jnp.mean, metrics), "failed_step": failed_step}


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980), with the arguments, the state and the updates of `optax.adam`.

    With `weight_decay` it is AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) as `optax.adamw` has it.

    It divides once for each parameter, and optax three times. This saves a hundredth of a step on a CPU.
    """

    def update(grads: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None):
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda g, m: (1 - b1) * g + b1 * m, grads, state.mu)
        nu = jax.tree.map(lambda g, v: (1 - b2) * jnp.square(g) + b2 * v, grads, state.nu)
        scale_mu, scale_nu = 1 / (1 - b1**count), 1 / (1 - b2**count)  # both moments begin at zero
        direction = lambda m, v: m * scale_mu.astype(m.dtype) / (jnp.sqrt(v * scale_nu.astype(v.dtype)) + eps)
        return jax.tree.map(direction, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    rescale = optax.GradientTransformation(optax.scale_by_adam().init, update)
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    return optax.chain(rescale, *decay, optax.scale_by_learning_rate(learning_rate))


def clip(tx: optax.GradientTransformation, max_norm: float | Array) -> optax.GradientTransformation:
    """The optimizer after clipping the global norm of the gradient, of the model and of the estimator separately.

    The gradient of a control variate may be a thousand times larger than the model's. `optax.clip_by_global_norm` of
    both together would scale the model's gradient down.
    """
    clipping = optax.partition({part: optax.clip_by_global_norm(max_norm) for part in PARTS}, PARTS)
    return optax.chain(clipping, tx)


def over_runs(function: Callable, mode: str, shared: int = 0, over: Mesh | None = None) -> Callable:
    """Maps `function` over a leading axis of runs in one program: side by side ("vmap") or one after another ("map").

    The last `shared` arguments are the same for every run and have no axis of runs. With a mesh
    (`vae.devices.mesh.make`), each device computes a part of the runs or a part of each batch.

    Raises:
      ValueError: if the mode is neither "vmap" nor "map".
    """
    if mode not in ("vmap", "map"):
        raise ValueError(f"there is no mode {mode!r}; choose vmap or map")

    def mapped(*args):
        own, common = (args[:-shared], args[-shared:]) if shared else (args, ())
        if mode == "vmap":
            return jax.vmap(lambda *own: function(*own, *common))(*own)
        return jax.lax.map(lambda own: function(*own, *common), own)

    return mapped if over is None else mesh.shard(mapped, over, shared)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Returns whether every number in the tree is finite, as a bool array `[]`."""
    return jax.tree.reduce(lambda finite, leaf: finite & jnp.all(jnp.isfinite(leaf)), tree, jnp.array(True))
