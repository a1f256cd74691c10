"""What the recorder of a program writes: its clock, and the events of each run."""

import contextlib

import jax.numpy as jnp
import tensorboardX

from experiments.common.settings import Settings
from experiments.train.recorder import Recorder
from tests.helpers.written_workdirs import Written, write_program
from vae import checkpoint


def test_the_clock_is_written_once_for_an_evaluation_and_a_checkpoint_at_the_same_epoch(tmp_path):
    folder = write_program(tmp_path, [Written(Settings(), status=None, elbo={})])
    row = {"run": 0, "epoch": 1, "step": 5, "examples": 20, "split": "test", "elbo_nats": -3.0}
    with Recorder(folder, keep=2, tensorboard=False, first_step=1) as recorder:
        recorder.log(1, 5, [row], 0.5)
        recorder.save(1, 5, 0.75, {"w": jnp.zeros(1)})
        recorder.save(2, 10, 1.0, {"w": jnp.ones(1)})
    assert folder.rows() == [row]
    assert folder.seconds() == {1: 0.5, 2: 1.0}
    assert len(folder.rows("timing.jsonl")) == 2
    assert checkpoint.steps(folder.checkpoints) == [1, 2]


def test_tensorboard_has_the_figures_of_each_run_in_a_folder_of_its_own(monkeypatch, tmp_path):
    written = []

    class Writer(contextlib.nullcontext):
        def __init__(self, path, purge_step):
            super().__init__(self)
            self.path, self.purge_step = path, purge_step

        def add_scalar(self, *scalar):
            written.append((self.path, self.purge_step, *scalar))

    monkeypatch.setattr(tensorboardX, "SummaryWriter", Writer)
    folder = write_program(tmp_path, [Written(Settings(seed=seed), status=None, elbo={}) for seed in (0, 1)])
    shared = {"epoch": 2, "step": 10, "examples": 40, "split": "test"}
    with Recorder(folder, keep=1, tensorboard=True, first_step=6) as recorder:
        recorder.log(2, 10, [{"run": run, **shared, "elbo_nats": -3.0 - run} for run in (0, 1)], 0.5)
    paths = [str(tmp_path / "tensorboard" / name) for name in folder.run_names()]
    scalars = [("examples", 40), ("elbo_nats", -3.0)], [("examples", 40), ("elbo_nats", -4.0)]
    assert written == [(path, 6, *scalar, 10) for path, own in zip(paths, scalars, strict=True) for scalar in own]
