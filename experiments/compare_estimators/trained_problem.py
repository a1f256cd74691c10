"""The problem of a trained run: its bound on fixed images, at the parameters of a checkpoint."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import build, grammar, program_state, run_selection
from experiments.common.problems import Problem, Start, TrainedEstimator
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.compare_estimators.flags import Options
from vae import checkpoint, objectives
from vae.train import TrainState

PyTree = Any


def from_workdir(options: Options) -> list[Problem]:
    """The problems of the run that --workdir and --run name, one for each checkpoint that --checkpoint names.

    The bound is --objective, or else the run's own, on the first --batch_size images of --split. Grey pixels of a
    dynamically binarized run are binarized once.

    Raises:
      ValueError: if there is no such objective, if the folder holds no such run or checkpoint, or if the run diverged
        or was trained on other data.
    """
    where = f"--workdir={options.workdir}"
    folder, number = run_selection.choose_one(options.workdir, options.run)
    trained = folder.runs()[number]
    measured = trained if options.objective is None else replace(trained, objective=_objective(options.objective))
    names = _checkpoints(folder, options.checkpoint)
    result = folder.results()[number]
    if result and result["status"] == "diverged":
        raise ValueError(f"{where} diverged at step {result['step']}, so its checkpoints hold no trained model")
    data = build.load_trained(trained, options.data_dir or folder.data_dir(), options.cache_dir)
    folder.check_data(data)
    x = build.first_batch(trained, data, options.split, options.batch_size or trained.batch_size)
    # They are those of the trained objective: the estimator may not fit another one.
    program = build.trained_functions(trained, data)
    apply = program.model.apply  # the bound must not refer to `program`, which would keep the whole data set in memory
    build.forget_data()
    bound = build.bound(measured, apply)
    problems = []
    for restored in (program_state.restore(folder, data, program, name) for name in names):
        if restored is None:
            continue
        if fault := restored.faults[number]:
            raise ValueError(f"{where}: the run {fault}; choose another --checkpoint")
        state = jax.device_put(program_state.select_run(restored.state, number))
        problems.append(_at_checkpoint(trained, measured, bound, x, state, restored.epochs[number]))
    if not problems:
        at = options.checkpoint
        which = "its checkpoints" if at in ("all", "latest") else f"--checkpoint={at}"
        raise ValueError(f"{where}: {which} cannot be read; choose another checkpoint, or train the run again")
    return problems


def _objective(text: str) -> str:
    """The value of --objective without the options that equal their defaults."""
    try:
        return str(grammar.choose(text, objectives.BY_NAME))
    except ValueError as error:
        raise ValueError(f"--objective={text}: {error}") from None


def _at_checkpoint(
    trained: Settings, measured: Settings, bound: Callable, x: jax.Array, state: TrainState, epoch: int
) -> Problem:
    """The problem of a run at the state of a checkpoint. `measured` is the run with the objective of the bound."""
    groups = state.params["model"]["params"]
    start = Start(state.params["estimator"], state.estimator_state)
    return Problem(
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
