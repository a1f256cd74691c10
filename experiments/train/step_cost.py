"""The cost of a training step in evaluations of f and in FLOP, and the number of samples that a budget buys."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.common import build, phases, settings
from experiments.common.budget import Budget, Cost, Refused, affordable, check_objective
from experiments.common.settings import Settings
from vae import diagnostics, estimators, train
from vae.data import Dataset


class StepCost(NamedTuple):
    """The cost of the gradient of one training step.

    Attributes:
      evaluations: The number of samples z at which f is evaluated for one image.
      flops: The FLOP of the gradient for a batch, as XLA counts them on this device.
    """

    evaluations: float
    flops: float


def measure(run: Settings, data: Dataset) -> StepCost:
    """The cost of a training step of the run. It does not depend on the values of the parameters."""
    gradient = _gradient(run, data)
    return StepCost(evaluations=_cost(gradient, "evaluations"), flops=_cost(gradient, "flops"))


def buy_samples(runs: list[Settings], budget: Budget, data_of: dict[Settings, Dataset]) -> list[Settings]:
    """The runs with the largest numbers of samples that the budget buys for a training step.

    Raises:
      ValueError: If a run's bound is a different bound for each number of samples, or if the budget is too small.
    """
    program_of = lambda run: tuple(settings.program_settings(run).items())
    programs: dict[tuple, Settings] = {}
    for run in runs:
        programs.setdefault(program_of(run), run)
    bought = {
        program: _affordable(run, budget, data_of[run])
        for program, run in phases.each([*programs.items()], "choosing K", lambda item: item[1].estimator)
    }
    return [dataclasses.replace(run, num_samples=bought[program_of(run)]) for run in runs]


def _affordable(run: Settings, budget: Budget, data: Dataset) -> int:
    model, x = build.model(run, data), _images(run, data)
    check_objective(run.objective, build.expectations_of(run, model, x))

    def cost(num_samples: int) -> float:
        try:
            return _cost(_gradient(dataclasses.replace(run, num_samples=num_samples), data), budget.kind)
        except ValueError as error:  # some estimators refuse odd numbers
            raise Refused(str(error)) from None

    return affordable(budget, cost, run.estimator)


class _Gradient(NamedTuple):
    """The gradient of `bound` by the estimator. The arguments are those of `vae.diagnostics.make_gradient`."""

    bound: Callable
    estimator: estimators.Estimator
    arguments: tuple[Any, ...]


def _gradient(run: Settings, data: Dataset) -> _Gradient:
    """The gradient of a training step, at random parameters and images."""
    model, x = build.model(run, data), _images(run, data)
    estimator = settings.build(run, "estimator", num_samples=run.num_samples)
    init = train.make_init(model, estimator, optax.identity(), x)
    rng = np.random.default_rng(0)
    fill = lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
    state = jax.tree.map(fill, jax.eval_shape(init, jax.random.key(0)))
    groups = state.params["model"]["params"]
    data_of_bound = {"x": x, "epoch": np.float32(0)}
    arguments = (groups, data_of_bound, state.params["estimator"], state.estimator_state, x)
    return _Gradient(build.bound(run, model.apply), estimator, arguments)


def _cost(gradient: _Gradient, kind: Cost) -> float:
    """The cost of the gradient. Only the count of evaluations draws samples."""
    bound, estimator, arguments = gradient
    if kind == "flops":
        return diagnostics.flops(diagnostics.make_gradient(bound, estimator), jax.random.key(0), *arguments)
    return diagnostics.evaluations(bound, estimator, jax.random.key(0), *arguments)


def _images(run: Settings, data: Dataset) -> np.ndarray:
    shape = (run.batch_size, *data.train.shape[1:])
    return np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
