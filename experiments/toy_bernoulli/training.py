"""Trains a toy problem with all estimators and seeds at all of its points, in one compiled program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import phases
from experiments.common.grammar import least_samples
from experiments.common.problems import Problem
from experiments.common.task import Task, make_estimator
from vae import diagnostics, train

# The gradients behind a variance are computed in batches of at most this many numbers.
SIDE_BY_SIDE = 4096

# For each estimator {"loss": array, "variance": array}, both arrays `[points, seeds, records]`.
Curves = dict[str, dict[str, np.ndarray]]


class Training(NamedTuple):
    """The settings of every run.

    Attributes:
      num_samples: The number of samples K. An estimator that needs more gets its least number.
      steps: The number of Adam steps, a multiple of records - 1.
      records: The number of steps at which a curve is recorded, including the first and the last step.
      seeds: The number of runs of each estimator, with seeds 0, 1, and so on.
      learning_rate: The learning rate of Adam.
      draws: The number of gradients behind each variance.
    """

    num_samples: int
    steps: int
    records: int
    seeds: int
    learning_rate: float
    draws: int

    @property
    def stride(self) -> int:
        """The number of steps between two records."""
        return self.steps // (self.records - 1)

    def samples(self, name: str) -> int:
        """The number of samples of an estimator."""
        return max(self.num_samples, least_samples(name))


def train_all(points: list[Problem], names: list[str], training: Training) -> Curves:
    """The curves of all estimators at the points of one toy."""
    program = jax.jit(functools.partial(_all_curves, points, names, training))
    seeds = jnp.arange(training.seeds)
    phases.say("compiling")
    compiled = program.lower(seeds).compile()
    phases.say("training")
    return jax.device_get(compiled(seeds))


def _all_curves(points: list[Problem], names: list[str], training: Training, seeds) -> dict[str, Any]:
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(point.data for point in points))
    curves = {}
    for name in names:
        curve = functools.partial(_curve, points[0], name, training)
        curves[name] = jax.vmap(jax.vmap(curve, in_axes=(None, 0)), in_axes=(0, None))(data, seeds)
    return curves


def _curve(problem: Problem, name: str, training: Training, data, seed):
    """Trains one run, and returns the exact loss and the variance of the gradient at each record, `[records]`."""
    task = Task(problem._replace(data=data), "elbo")
    estimator = make_estimator(name, training.samples(name))
    objective = lambda apply, params, data, expect: task.bound(params, data, expect)
    tx = optax.adam(training.learning_rate)
    step = train.make_step(None, objective, estimator, tx)
    gradient = diagnostics.make_gradient(task.bound, estimator)
    key_init, key_steps, key_draws = jax.random.split(jax.random.key(seed), 3)

    learned, counted = estimator.init(key_init, task.posterior, data)
    params = {"model": problem.params, "estimator": learned}
    start = train.TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32))

    def advance(state, _):
        return step(state, jax.random.fold_in(key_steps, state.step), data)[0], None

    def row(state):
        params = state.params["model"]
        keys = jax.random.split(jax.random.fold_in(key_draws, state.step), training.draws)
        draw = lambda key: gradient(key, params, data, state.params["estimator"], state.estimator_state, data)
        draws = jax.lax.map(draw, keys, batch_size=max(1, SIDE_BY_SIDE // task.size))
        spread = jax.tree.map(lambda leaf: jnp.sum(jnp.var(leaf, axis=0, ddof=1)), draws)
        return {"loss": -problem.expected(params, data), "variance": sum(jax.tree.leaves(spread))}

    def record(state, _):
        return jax.lax.scan(advance, state, length=training.stride)[0], row(state)

    last, rows = jax.lax.scan(record, start, length=training.records - 1)
    return jax.tree.map(lambda rows, end: jnp.append(rows, end), rows, row(last))
