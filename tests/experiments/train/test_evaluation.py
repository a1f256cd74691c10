"""The rows and the best states of an evaluation between epochs."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import assess
from experiments.common.program_state import first_progress
from experiments.train.evaluation import make_evaluation
from vae.data import Dataset
from vae.devices import mesh
from vae.train import TrainState

STEPS = 5
IMAGES = np.zeros((3, 1, 1, 1), np.uint8)
DATA = Dataset("digits", IMAGES, IMAGES, IMAGES, levels=2, checksum="")
PROGRAM = SimpleNamespace(
    data=DATA,
    functions=SimpleNamespace(evaluated=None, steps_per_epoch=STEPS),
    settings=SimpleNamespace(batch_size=4),
    measurement=None,
)


class Chooser(NamedTuple):
    """The state of an estimator with a figure for each run."""

    shares: jax.Array

    def figures(self):
        return {"auto/share": self.shares}


def state_after(epoch: int, elbo: list[float], chooser=()) -> TrainState:
    """The states of three runs, whose parameter is their ELBO; that of the moving average is 10 nats lower."""
    elbo = jnp.array(elbo)
    step = jnp.full(3, epoch * STEPS)
    return TrainState({"model": {"w": elbo}, "estimator": {}}, {}, chooser, step, ema={"w": elbo - 10})


@pytest.fixture
def evaluate(monkeypatch):
    """An evaluation of three runs on one device, of which run 1 has diverged."""
    bound = lambda model, devices, params, x: [{"elbo_nats": value.item()} for value in params["w"]]
    monkeypatch.setattr(assess, "bound", bound)
    evaluation = make_evaluation(PROGRAM, mesh.make(3, 1, jax.devices()[:1]), values={})
    metrics = {"bound": np.array([-7.0, np.nan, -9.0])}
    return lambda epoch, progress: evaluation(epoch, progress, metrics, np.array([0, 2]), measured=False)


def test_each_run_that_has_not_diverged_has_a_row_with_its_own_figures(evaluate):
    chooser = Chooser(jnp.array([0.25, 0.5, math.nan]))
    rows, _ = evaluate(2, first_progress(state_after(2, [-3.0, -1.0, -2.0], chooser), validation=True))
    shared = {"epoch": 2, "step": 10, "examples": 40, "split": "validation"}
    figures = {"bound_nats": -7.0, "elbo_nats": -3.0, "ema_elbo_nats": -13.0, "auto/share": 0.25}
    assert rows == [
        {"run": 0} | shared | figures,
        {"run": 2} | shared | {"bound_nats": -9.0, "elbo_nats": -2.0, "ema_elbo_nats": -12.0},
    ]


def test_each_run_keeps_its_best_state_and_one_that_has_diverged_gets_no_other(evaluate):
    progress = first_progress(state_after(0, [0.0, 0.0, 0.0]), validation=True)
    for epoch, elbo in ((1, [-3.0, -1.0, -2.0]), (2, [-4.0, -1.0, -1.0])):
        _, progress = evaluate(epoch, progress._replace(state=state_after(epoch, elbo)))
    np.testing.assert_array_equal(progress.best.bound, [-3.0, -np.inf, -1.0])
    np.testing.assert_array_equal(progress.best.state.step, [STEPS, 0, 2 * STEPS])
