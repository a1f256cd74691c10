"""What a checkpoint holds: the states of all runs, and the best state of each run by its validation bound."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import program_state
from experiments.common.program_state import Best, first_progress, update_best
from experiments.common.settings import Settings
from tests.helpers.written_workdirs import Written, write_program
from vae import checkpoint
from vae.train import TrainState

RUNS = [Settings(seed=seed) for seed in (0, 1, 2)]
STEPS = 5
WITH_VALIDATION, WITHOUT = SimpleNamespace(validation=[0]), SimpleNamespace(validation=[])


def _start() -> TrainState:
    """The initial state of one run, with two parameters."""
    params = {"model": jnp.zeros(2), "estimator": jnp.zeros(())}
    return TrainState(params, {"momentum": jnp.zeros(2)}, {}, jnp.int32(0))


FUNCTIONS = SimpleNamespace(state=_start(), steps_per_epoch=STEPS)


def _state(epoch: int) -> TrainState:
    """The states of three runs after an epoch; their parameters say the epoch and the run."""
    model = 10.0 * epoch + jnp.arange(3)[:, None] * jnp.ones(2)
    momentum = {"momentum": model + 0.5}
    return TrainState({"model": model, "estimator": jnp.zeros(3)}, momentum, {}, jnp.full(3, epoch * STEPS))


def _best_of(bounds: list[list[float]]) -> Best:
    """The best states after epochs with these validation bounds of the three runs."""
    best = first_progress(_state(0), validation=True).best
    for epoch, bound in enumerate(bounds, 1):
        best = update_best(best, _state(epoch), jnp.array(bound, jnp.float32))
    return best


def test_each_run_has_its_own_best_state():
    best = _best_of([[-3.0, -1.0, -2.0], [-2.0, -5.0, -2.0], [-4.0, -6.0, -1.0]])
    np.testing.assert_array_equal(best.bound, [-2.0, -1.0, -1.0])
    np.testing.assert_array_equal(best.state.step, [2 * STEPS, STEPS, 3 * STEPS])
    np.testing.assert_array_equal(best.state.params["model"][:, 0], [20.0, 11.0, 32.0])
    assert best.state.opt_state is None


@pytest.mark.parametrize("bounds", [[np.nan, -1.0], [-1.0, np.nan], [-1.0, -np.inf], [-np.inf, -1.0]])
def test_a_bound_that_is_no_number_is_not_the_best(bounds):
    """A run that diverged has the bound -inf, and keeps its best state from before."""
    best = _best_of([[bound] * 3 for bound in bounds])
    np.testing.assert_array_equal(best.bound, [-1.0] * 3)
    np.testing.assert_array_equal(best.state.step, [STEPS * (1 + bounds.index(-1.0))] * 3)


def test_the_first_of_equals_is_the_best():
    np.testing.assert_array_equal(_best_of([[-1.0] * 3, [-1.0] * 3]).state.step, [STEPS] * 3)


def test_without_a_validation_split_there_is_no_best_state():
    first = first_progress(_state(0), validation=False)
    assert first.best is None
    assert first.failed_step.tolist() == [0, 0, 0]
    assert first.without_optimizer().state.opt_state is None


@pytest.fixture
def folder(tmp_path):
    """A program with checkpoints after epochs 2 and 3. The last has no optimizer state."""
    folder = write_program(tmp_path, [Written(run, status=None) for run in RUNS])
    best = _best_of([[-1.0, -2.0, -2.0], [-2.0, -1.0, -2.0]])
    with checkpoint.writer(folder.checkpoints) as (save, _):
        start = first_progress(_state(2), validation=True)
        save(2, start._replace(best=best))
        last = start._replace(state=_state(3), best=update_best(best, _state(3), jnp.array([-3.0, -3.0, -1.0])))
        save(3, last.without_optimizer())
    return folder


@pytest.mark.parametrize(
    ("name", "epochs", "model"),
    [("latest", [3, 3, 3], [30, 31, 32]), ("2", [2, 2, 2], [20, 21, 22]), ("best", [1, 2, 3], [10, 21, 32])],
)
def test_the_states_of_all_runs_are_restored_by_the_name_of_a_checkpoint(name, epochs, model, folder):
    restored = program_state.restore(folder, WITH_VALIDATION, FUNCTIONS, name)
    assert restored.epochs == epochs
    np.testing.assert_array_equal(restored.state.params["model"][:, 0], model)
    assert restored.state.opt_state is None
    assert restored.faults == ["", "", ""]
    assert program_state.select_run(restored.state, 1).params["model"].tolist() == [model[1]] * 2


def test_a_run_without_a_state_of_the_epoch_has_a_fault(tmp_path):
    folder = write_program(tmp_path, [Written(run, status=None) for run in RUNS])
    with checkpoint.writer(folder.checkpoints) as (save, _):
        begun = first_progress(_state(2), validation=True)
        best = begun.best._replace(bound=jnp.array([-jnp.inf, -1.0, -jnp.inf]))
        save(2, begun._replace(failed_step=jnp.array([0, 7, 0]), best=best))
    faults = lambda name: program_state.restore(folder, WITH_VALIDATION, FUNCTIONS, name).faults
    assert faults("latest") == faults("2") == ["", "diverged at step 7", ""]
    none_yet = "had no finite validation bound yet"
    assert faults("best") == [none_yet, "", none_yet]


@pytest.mark.parametrize("name", ["1", "-2", "newest", "²", ""])
def test_a_checkpoint_that_does_not_exist_is_one_sentence(name, folder):
    with pytest.raises(ValueError, match=r"is not in .*; choose latest, best or one of 2, 3$"):
        program_state.restore(folder, WITH_VALIDATION, FUNCTIONS, name)
    with pytest.raises(ValueError, match=r"is not in .*; choose latest or one of 2, 3$"):
        program_state.restore(folder, WITHOUT, FUNCTIONS, name)


def test_best_without_a_validation_split_is_one_sentence(folder):
    with pytest.raises(ValueError, match="was trained without a validation split; choose --checkpoint=latest"):
        program_state.restore(folder, WITHOUT, FUNCTIONS, "best")


def test_a_program_with_another_number_of_runs_is_refused(folder, tmp_path):
    other = write_program(tmp_path / "other", [Written(dataclasses.replace(RUNS[0], seed=seed)) for seed in (0, 1)])
    folder.checkpoints.rename(other.checkpoints)
    with pytest.raises(ValueError, match=r"belongs to another configuration: .* is \S+\[3.*\], not \S+\[2"):
        program_state.restore(other, WITH_VALIDATION, FUNCTIONS)
