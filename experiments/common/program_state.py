"""What the training of a program carries from epoch to epoch, and a checkpoint holds.

A checkpoint is one Orbax checkpoint with the stacked states of all runs. The checkpoint of the last epoch holds no
optimizer state, which only further training would need.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.common import build
from experiments.common.program_folder import ProgramFolder
from vae import checkpoint
from vae.data import Dataset
from vae.train import TrainState


class Best(NamedTuple):
    """For each run the state with the largest validation bound so far, without its optimizer state.

    Attributes:
      state: The states, with a leading axis of runs.
      bound: The ELBO of the validation split in nats; -inf before the first evaluation.
    """

    state: TrainState
    bound: Float[Array, " runs"]


class Progress(NamedTuple):
    """A pytree whose leaves have a leading axis of runs.

    Attributes:
      state: The states of the runs. A run that diverged keeps the state from before the failed epoch.
      failed_step: The step at which the run diverged, or 0.
      best: The best states, or None if the data have no validation split.
    """

    state: TrainState
    failed_step: Int[Array, " runs"]
    best: Best | None

    def without_optimizer(self) -> "Progress":
        return self._replace(state=_without_optimizer(self.state))


@functools.partial(jax.jit, static_argnums=1)
def first_progress(state: TrainState, validation: bool) -> Progress:
    """The progress before the first epoch, from the initial states of all runs."""
    runs = len(state.step)
    best = None
    if validation:
        # A copy, because training donates the memory of the states.
        best = Best(jax.tree.map(jnp.copy, _without_optimizer(state)), jnp.full(runs, -jnp.inf, jnp.float32))
    return Progress(state, jnp.zeros(runs, jnp.int32), best)


def update_best(best: Best, state: TrainState, bound: Float[Array, " runs"]) -> Best:
    """Replaces the best state of each run whose `bound`, the present validation ELBO, is larger than its largest."""
    better = bound > best.bound
    pick = lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return jax.tree.map(pick, Best(_without_optimizer(state), bound), best)


def _without_optimizer(state: TrainState) -> TrainState:
    return state._replace(opt_state=None)


class Restored(NamedTuple):
    """The states of a program's runs at a checkpoint.

    Attributes:
      epochs: The epoch of each run; the best epoch may be another one for each run.
      state: The states without optimizer states, with a leading axis of runs, as NumPy arrays.
      faults: For each run why its state is not that of the epoch, as in "diverged at step 3"; empty if it is.
    """

    epochs: list[int]
    state: TrainState
    faults: list[str]


def restore(folder: ProgramFolder, data: Dataset, functions: build.Functions, name: str = "latest") -> Restored | None:
    """The states at the checkpoint that --checkpoint names; None if no such checkpoint can be read.

    Args:
      data: The data set of the program.
      functions: The functions of the program.
      name: "latest", "best", or the number of an epoch.

    Raises:
      ValueError: If the program never had such a checkpoint.
    """
    epochs = checkpoint.steps(folder.checkpoints)
    has_best = len(data.validation) > 0
    if name == "best" and not has_best:
        raise ValueError(
            f"--checkpoint=best needs a validation bound, and {folder.path} was trained without a validation"
            " split; choose --checkpoint=latest, or train with --validation_size"
        )
    if name not in ("best", "latest") and (not name.isdecimal() or int(name) not in epochs):
        raise ValueError(
            f"--checkpoint={name} is not in {folder.checkpoints}; choose latest{', best' if has_best else ''} or one of"
            f" {', '.join(map(str, epochs)) or '(none)'}"
        )
    shape = shape_of(functions, len(folder.runs()), has_best)
    at = [int(name)] if name.isdecimal() else None
    restored = checkpoint.restore(folder.checkpoints, shape.without_optimizer(), at)
    if restored is None:
        return None
    epoch, progress = restored
    if name != "best":
        faults = [f"diverged at step {step}" if step else "" for step in progress.failed_step.tolist()]
        return Restored([epoch] * len(faults), progress.state, faults)
    state, bounds = progress.best
    faults = ["" if math.isfinite(bound) else "had no finite validation bound yet" for bound in bounds.tolist()]
    return Restored((state.step // functions.steps_per_epoch).tolist(), state, faults)


def restore_readable(
    folder: ProgramFolder, data: Dataset, functions: build.Functions, name: str = "latest"
) -> Restored:
    """The states as `restore` returns them.

    Raises:
      ValueError: If there is no such checkpoint, or it cannot be read.
    """
    restored = restore(folder, data, functions, name)
    if restored is None:
        others = [step for step in checkpoint.steps(folder.checkpoints) if name.isdecimal() and step != int(name)]
        if others:
            raise ValueError(f"{folder.checkpoints / name} cannot be read; choose one of {', '.join(map(str, others))}")
        raise ValueError(
            f"{folder.checkpoints} holds no checkpoint that can be read; delete {folder.path} and train it again"
        )
    return restored


def shape_of(functions: build.Functions, runs: int, validation: bool) -> Progress:
    """The shapes of the progress of `runs` runs."""
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((runs, *leaf.shape), leaf.dtype), functions.state)
    return jax.eval_shape(first_progress, stacked, validation)


def select_run(tree: Any, i: int) -> Any:
    """The NumPy arrays of run i."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], tree)
