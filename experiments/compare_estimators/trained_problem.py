"""The problem of a trained run: its bound on fixed images, at the parameters of a checkpoint."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import build, progress, run_selection
from experiments.common.problems import Problem, Start, TrainedEstimator
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from vae import checkpoint

PyTree = Any


def from_workdir(
    path: str,
    run: str | None = None,
    objective: str | None = None,
    split: str = "test",
    batch_size: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    at: str = "latest",
) -> list[Problem]:
    """The problems of a run, one for each checkpoint.

    Args:
      path: the work directory.
      run: the value of --run, which chooses one run of a sweep.
      objective: the bound; None for the run's own bound.
      split: train, validation or test.
      batch_size: the number of images from the beginning of the split; None for the run's own batch size. Grey pixels
        of a dynamically binarized run are binarized once.
      data_dir: folder of prepared data; None for the folder that training used, if it still exists.
      cache_dir: folder of decoded data.
      at: the checkpoint: latest, best, the number of an epoch, or all.

    Raises:
      ValueError: if the folder holds no such run or checkpoint, or if the run diverged or was trained on other data.
    """
    folder, number = run_selection.choose_one(path, run)
    trained = folder.runs()[number]
    names = _checkpoints(folder, at)
    result = folder.results()[number]
    if result and result["status"] == "diverged":
        raise ValueError(
            f"--workdir={path} diverged at step {result['step']}, so its checkpoints hold no trained model"
        )
    measured = trained if objective is None else replace(trained, objective=objective)
    data = build.load_trained(trained, data_dir or folder.data_dir(), cache_dir)
    folder.check_data(data)
    batch_size = batch_size or trained.batch_size
    x = build.first_batch(trained, data, split, batch_size)
    program = build.functions(trained, data)  # built with the trained objective: the estimator may not fit another one
    apply = program.model.apply  # the bound must not refer to `program`, which would keep the whole data set in memory
    build.forget_data()
    bound = build.bound(measured, apply)
    problems = []
    for name in names:
        restored = progress.restore(folder, data, program, name)
        if restored is None:
            continue
        if restored.faults[number]:
            raise ValueError(f"--workdir={path}: the run {restored.faults[number]}; choose another --checkpoint")
        epoch = restored.epochs[number]
        state = jax.device_put(progress.select_run(restored.state, number))
        groups = state.params["model"]["params"]
        start = Start(state.params["estimator"], state.estimator_state)
        problem = Problem(
            trained.dataset,
            params={name: groups[name] for name in sorted(groups, key=lambda name: (name != "encoder", name))},
            bounds={measured.objective: bound},
            data={"x": x, "epoch": jnp.asarray(float(epoch))},
            context=x,
            point={"epoch": epoch},
            num_samples=trained.num_samples,
            trained=TrainedEstimator(trained.estimator, start if measured == trained else None),
            identity=_identity(measured, groups, start, x, epoch),
        )
        problems.append(problem)
    if not problems:
        which = "its checkpoints" if at in ("all", "latest") else f"--checkpoint={at}"
        raise ValueError(f"--workdir={path}: {which} cannot be read; choose another checkpoint, or train the run again")
    return problems


def _checkpoints(folder: ProgramFolder, at: str) -> list[str]:
    """The checkpoints that --checkpoint names: latest, best, or numbers of epochs."""
    epochs = checkpoint.steps(folder.checkpoints)
    if not epochs:
        raise ValueError(f"{folder.path} holds no checkpoint; let the run train until its first checkpoint")
    return [str(epoch) for epoch in epochs] if at == "all" else [at]


def _identity(run: Settings, groups: PyTree, start: Start, x: jax.Array, epoch: int) -> str:
    """The settings of the run, and a digest of the checkpoint and the images."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((groups, start, x)):
        digest.update(np.asarray(leaf).tobytes())
    return f"{json.dumps(run.json(), default=str)} epoch {epoch} {digest.hexdigest()}"
