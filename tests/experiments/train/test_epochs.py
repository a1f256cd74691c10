"""The epochs of a program: which are evaluated and measured, how it ends early, and how it goes on."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.train import loop
from experiments.train.profiling import Profile
from tests.helpers.written_workdirs import Written, write_program
from vae.data import Dataset
from vae.devices import mesh
from vae.train import TrainState

STEPS = 3
IMAGES = np.zeros((2, 1, 1, 1), np.uint8)
DATA = Dataset("digits", IMAGES, IMAGES[:0], IMAGES, levels=2, checksum="")
OPTIONS = SimpleNamespace(
    eval_every=1,
    measure_gradient=0,
    keep=5,
    tensorboard=False,
    checkpoint_every=0,
    checkpoint_minutes=60,
    on_evaluation=None,
)


class Trained:
    """A program of two runs in a folder, whose epochs take no time: an epoch adds its steps to the parameter of each
    run. Notes the epochs that were trained, and the arguments of each evaluation: epoch, alive runs, measured.

    Args:
      failing: For each epoch that reports them, the failed steps of the runs.
      unreadable: The epoch whose images cannot be read, once.
    """

    def __init__(self, folder: ProgramFolder, epochs: int, failing=None, unreadable: int = 0):
        self.epochs, self.evaluations = [], []
        self.failing, self.unreadable = failing or {}, unreadable
        self.program = SimpleNamespace(
            runs=folder.runs(),
            settings=Settings(epochs=epochs),
            data=DATA,
            folder=folder,
            functions=SimpleNamespace(steps_per_epoch=STEPS),
            streamed=False,
            profile=Profile(None, folder.path / "profile", STEPS, epochs),
        )

    def train(self, monkeypatch, **options):
        monkeypatch.setattr(loop, "make_evaluation", lambda *arguments: self._evaluate)
        state = TrainState({"model": jnp.zeros(2), "estimator": {}}, {}, {}, jnp.zeros(2, jnp.int32))
        devices = mesh.make(2, 1, jax.devices()[:1])
        compiled = loop.Compiled(self.program, devices, {}, state, "map", lambda values: state, self._epoch, None)
        return loop.run_epochs(compiled, SimpleNamespace(**vars(OPTIONS) | options), hook=None)

    def _epoch(self, state, values, images):
        epoch = int(state.step[0]) // STEPS + 1
        if epoch == self.unreadable:
            self.unreadable = 0
            raise OSError("unreadable")
        self.epochs.append(epoch)
        params = jax.tree.map(lambda leaf: leaf + STEPS, state.params)
        failed = np.array(self.failing.get(epoch, [0, 0]), np.int32)
        return state._replace(params=params, step=state.step + STEPS), {"bound": np.zeros(2), "failed_step": failed}

    def _evaluate(self, epoch, progress, metrics, alive, measured):
        self.evaluations.append((epoch, alive.tolist(), bool(measured)))
        shared = {"epoch": epoch, "step": epoch * STEPS, "examples": 0, "split": "test", "elbo_nats": -1.0}
        return [{"run": run} | shared for run in alive.tolist()], progress


@pytest.fixture
def folder(tmp_path):
    return write_program(tmp_path, [Written(Settings(seed=seed), status=None, elbo={}) for seed in (0, 1)])


def test_some_evaluations_are_measured_and_the_last_epoch_is_always_evaluated_and_measured(folder, monkeypatch):
    trained = Trained(folder, epochs=7)
    trained.train(monkeypatch, eval_every=2, measure_gradient=2)
    measured = {2: False, 4: True, 6: False, 7: True}
    assert trained.evaluations == [(epoch, [0, 1], measured[epoch]) for epoch in measured]


def test_a_run_that_diverged_has_no_further_evaluations_and_keeps_its_first_failed_step(folder, monkeypatch):
    trained = Trained(folder, epochs=3, failing={2: [5, 0], 3: [8, 0]})
    progress = trained.train(monkeypatch)
    assert [alive for _, alive, _ in trained.evaluations] == [[0, 1], [1], [1]]
    assert progress.failed_step.tolist() == [5, 0]


def test_a_program_ends_when_all_of_its_runs_have_diverged(folder, monkeypatch):
    trained = Trained(folder, epochs=9, failing={1: [2, 0], 2: [0, 4]})
    assert trained.train(monkeypatch).failed_step.tolist() == [2, 4]
    assert trained.epochs == [1, 2]


@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_a_program_whose_images_could_not_be_read_goes_on_where_it_failed(checkpoint_every, folder, monkeypatch):
    """A row after the checkpoint is forgotten, failed steps and seconds are kept."""
    trained = Trained(folder, epochs=4, failing={2: [5, 0]}, unreadable=3)
    with pytest.raises(OSError, match="unreadable"):
        trained.train(monkeypatch, checkpoint_every=checkpoint_every)
    folder.append([{"run": 1, "epoch": 3, "step": 9, "examples": 0, "split": "test", "elbo_nats": -9.0}])
    folder.append([{"epoch": 2, "step": 6, "train_seconds": 100.0}], "timing.jsonl")
    progress = trained.train(monkeypatch, checkpoint_every=checkpoint_every)
    assert trained.epochs == [1, 2, 3, 4]
    assert progress.failed_step.tolist() == [5, 0]
    np.testing.assert_array_equal(progress.state.params["model"], [4 * STEPS] * 2)
    assert [(row["epoch"], row["run"]) for row in folder.rows()] == [(1, 0), (1, 1), (2, 1), (3, 1), (4, 1)]
    assert {row["elbo_nats"] for row in folder.rows()} == {-1.0}
    assert 100 < folder.seconds()[3] < folder.seconds()[4] < 200
