"""That a run that goes on from a checkpoint is the same run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import build
from experiments.common.settings import Settings
from vae import TrainState, checkpoint
from vae import data as datasets


def assert_same_after_restoring(
    run: Settings, functions: Any, data: datasets.Dataset, state: TrainState, folder: Path
) -> None:
    """Trains the state and its restored copy for an epoch, and compares their parameters bit for bit."""
    with checkpoint.writer(folder) as (save, wait):
        save(1, state)
        wait()
    _, restored = checkpoint.restore(folder, jax.eval_shape(lambda: state))
    twice = [functions.epoch(each, build.arrays(run), data.train)[0] for each in (restored, state)]
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(each.params) for each in twice))
