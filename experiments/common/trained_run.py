"""A trained run for your own Python code: its model, its parameters and its data.

import jax

from experiments.common import trained_run

run = trained_run.load("results/quickstart")  # of a sweep: load("results/sweep", "seed=3,estimator=relax")
x = run.images("test")[:10]  # [10, 8, 8, 1]
q = run.model.apply(run.variables, x, method="encode")  # a distribution over z, batch_shape [10]
z = q.sample(jax.random.key(0), 1)  # [1, 10, D]
p = run.model.apply(run.variables, z, method="decode")  # a distribution over pixels
reconstructions = p.mean[0].reshape(x.shape)
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import build, program_state, run_selection
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from vae.data import Dataset
from vae.models import VAE
from vae.train import TrainState


class TrainedRun(NamedTuple):
    """A run at one of its epochs.

    Attributes:
      settings: The settings of the run.
      epoch: The epoch of the parameters.
      model: The model; its methods take `variables`, as in `model.apply(variables, x, method="encode")`.
      variables: The parameters.
      average: With --ema, the moving average of the parameters; else None.
      data: The data set of the run.
    """

    settings: Settings
    epoch: int
    model: VAE
    variables: Any
    average: Any
    data: Dataset

    def images(self, split: str = "test") -> np.ndarray:
        """The images of the split train, validation or test, as the model sees them: `[N, H, W, C]`, float32.

        With dynamic binarization, the training images are binarized once; `data.train` has their grey levels.
        """
        images = np.asarray(getattr(self.data, split))
        return np.asarray(build.training_pixels(self.settings, self.data, jax.random.key(0), images))


def load(
    workdir: str | Path,
    run: str | None = None,
    checkpoint: str = "latest",
    data_dir: str | None = None,
    cache_dir: str | None = None,
) -> TrainedRun:
    """The trained run of a workdir, or one of its runs.

    Args:
      workdir: The folder of a run or of a sweep.
      run: Settings that choose one run of a sweep, such as "seed=3,estimator=relax".
      checkpoint: "latest", "best" (by the validation bound), or the number of an epoch.
      data_dir: The folder of the data; None for the folder that the training read.
      cache_dir: The folder of decoded data.

    Raises:
      ValueError: If there is no such run or checkpoint, or if it cannot be read. The message names the flags of
        `experiments.evaluate`, such as --run.
    """
    folder, number = run_selection.choose_one(workdir, run)
    settings = folder.runs()[number]
    data = build.load_trained(settings, data_dir or folder.data_dir(), cache_dir)
    folder.check_data(data)
    functions = build.trained_functions(settings, data)
    restored = program_state.restore_readable(folder, data, functions, checkpoint)
    if restored.faults[number]:
        raise ValueError(f"{workdir}: the run {restored.faults[number]}; choose another checkpoint")
    state = jax.device_put(program_state.select_run(restored.state, number))
    return TrainedRun(settings, restored.epochs[number], functions.evaluated, state.params["model"], state.ema, data)


def from_hook(row: dict[str, Any], state: TrainState, cache_dir: str | None = None) -> TrainedRun:
    """The run that --on_evaluation calls a function for, while it is trained.

    Args:
      row: The first argument of the function.
      state: The second argument of the function.
      cache_dir: The folder of decoded data.
    """
    folder = ProgramFolder(row["folder"])
    settings = folder.runs()[row["run"]]
    data = build.load_trained(settings, folder.data_dir(), cache_dir)
    model = build.model(settings, data, for_evaluation=True)
    return TrainedRun(settings, row["epoch"], model, state.params["model"], state.ema, data)
