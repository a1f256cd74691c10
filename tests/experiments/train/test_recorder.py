"""The clock of a program, which its recorder writes."""

import jax.numpy as jnp

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
