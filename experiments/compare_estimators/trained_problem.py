"""The problem of a trained run: its bound on fixed images, at the parameters of a checkpoint."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import build
from experiments.common.problems import Problem, Start, TrainedEstimator
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from vae import checkpoint
from vae import data as datasets

PyTree = Any


def from_workdir(
    path: str,
    objective: str | None = None,
    split: str = "test",
    batch_size: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    at: str = "latest",
) -> list[Problem]:
    """The problems of a run, one for each checkpoint.

    Args:
      path: the run's work directory.
      objective: the bound; None for the run's own bound.
      split: train, validation or test.
      batch_size: the number of images from the beginning of the split; None for the run's own batch size. Grey pixels
        of a dynamically binarized run are binarized once.
      data_dir: folder of prepared data; None for the folder that training used, if it still exists.
      cache_dir: folder of decoded data.
      at: the checkpoint: latest, best, the number of an epoch, or all.

    Raises:
      ValueError: if the folder holds no run or no such checkpoint, or if its run diverged or was trained on other data.
    """
    folder = RunFolder(path)
    trained = folder.settings()
    epochs = _epochs(folder, path, at)
    result = folder.result()
    if result and result["status"] == "diverged":
        raise ValueError(
            f"--workdir={path} diverged at step {result['step']}, so its checkpoints hold no trained model"
        )
    run = trained if objective is None else replace(trained, objective=objective)
    data = build.load_trained(trained, data_dir or folder.data_dir(), cache_dir)
    folder.check_data(data)
    batch_size = batch_size or trained.batch_size
    x = _images(trained, data, split, batch_size)
    program = build.functions(trained, data)  # built with the trained objective: the estimator may not fit another one
    apply = program.model.apply  # `bound` must not refer to `program`, which would keep the whole data set in memory
    build.forget_data()

    def bound(groups, data, expect):
        objective = build.objective(run, build.arrays(run), data["epoch"])
        return objective(apply, {"params": groups}, data["x"], expect)

    problems = []
    like = jax.eval_shape(program.init, build.arrays(trained))
    for epoch in epochs:
        restored = checkpoint.restore(folder.checkpoints, like, at=epoch)
        if restored is None:
            continue
        number, state = restored[0], jax.tree.map(jnp.asarray, restored[1])
        groups = state.params["model"]["params"]
        start = Start(state.params["estimator"], state.estimator_state)
        problem = Problem(
            trained.dataset,
            params={name: groups[name] for name in sorted(groups, key=lambda name: (name != "encoder", name))},
            bounds={run.objective: bound},
            data={"x": x, "epoch": jnp.asarray(float(number))},
            context=x,
            point={"epoch": number},
            num_samples=trained.num_samples,
            trained=TrainedEstimator(trained.estimator, start if run == trained else None),
            identity=_identity(run, groups, start, x, number),
        )
        problems.append(problem)
    if not problems:
        which = "its checkpoints" if at in ("all", "latest") else f"--checkpoint={at}"
        raise ValueError(f"--workdir={path}: {which} cannot be read; choose another checkpoint, or train the run again")
    return problems


def _epochs(folder: RunFolder, path: str, at: str) -> list[list[int] | None]:
    """For each problem, the epochs that may be restored; None allows all, and the newest readable one is restored."""
    steps = checkpoint.steps(folder.checkpoints)
    if not steps:
        raise ValueError(f"--workdir={path} holds no checkpoint; let the run train until its first evaluation")
    if at == "all":
        return [[epoch] for epoch in steps]
    epoch = folder.epoch_of(at)
    return [None if epoch is None else [epoch]]


def _images(run: Settings, data: datasets.Dataset, split: str, batch_size: int) -> jax.Array:
    images = getattr(data, split)
    if batch_size > len(images):
        raise ValueError(f"--batch_size={batch_size} is larger than the {len(images)} {split} images")
    x = jnp.asarray(datasets.pixels(images[:batch_size], data.levels))
    return datasets.binarize(jax.random.key(0), x) if run.binarization == "dynamic" else x


def _identity(run: Settings, groups: PyTree, start: Start, x: jax.Array, epoch: int) -> str:
    """The settings of the run, and a digest of the checkpoint and the images."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((groups, start, x)):
        digest.update(np.asarray(leaf).tobytes())
    return f"{json.dumps(run.json(), default=str)} epoch {epoch} {digest.hexdigest()}"
