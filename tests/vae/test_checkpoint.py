"""What is restored is what was saved, to the bit; what is damaged is not restored."""

import os
import re
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae import checkpoint, estimators, models, train


@pytest.fixture(scope="module")
def state():
    model, estimator = models.make_vae((4, 4, 1), 2, (5,)), estimators.BY_NAME["nvil"].make()
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    shapes = jax.eval_shape(train.make_init(model, estimator, tx, jnp.zeros((3, 4, 4, 1))), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(rng.normal(size=leaf.shape) * 9, leaf.dtype)), shapes)


def _at(state, step):
    """Other contents for each step."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + np.asarray(step, leaf.dtype)), state)


@pytest.fixture
def folder(state, tmp_path) -> Path:
    """Checkpoints 1, 2 and 3 of different contents, of which the newest two are kept."""
    path = tmp_path / "a folder, ünd mehr: 100%25 {x}*?#&'"
    with checkpoint.writer(path, keep=2) as (save, _):
        for step in (1, 2, 3):
            save(step, _at(state, step))
    return path


def _assert_is(found, state, step):
    expected = _at(state, step)
    assert found[0] == step
    assert jax.tree.structure(found[1]) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_is_restored_to_the_bit(folder, state):
    assert checkpoint.steps(folder) == [2, 3]
    _assert_is(checkpoint.restore(folder, state), state, 3)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    _assert_is(checkpoint.restore(folder, like, at=[2]), state, 2)
    _assert_is(checkpoint.restore(folder, like, at=[3, 2]), state, 3)


def test_the_newest_stay_also_after_a_later_start(state, tmp_path):
    for steps, left in (((1, 2, 3, 4, 5), [3, 4, 5]), ((6, 7), [5, 6, 7])):
        with checkpoint.writer(tmp_path, keep=3) as (save, _):
            for step in steps:
                save(step, state)
        assert checkpoint.steps(tmp_path) == left


def test_what_is_older_is_dropped_and_the_rest_is_restored(folder, state):
    checkpoint.drop_before(folder, 2)
    assert checkpoint.steps(folder) == [2, 3]
    checkpoint.drop_before(folder, 3)
    assert checkpoint.steps(folder) == [3]
    _assert_is(checkpoint.restore(folder, state), state, 3)
    checkpoint.drop_before(folder / "missing", 3)


def test_what_is_newer_than_the_restored_one_is_made_again(folder, state):
    checkpoint.drop_after(folder, 2)
    with checkpoint.writer(folder) as (save, _):
        save(3, state)
    assert checkpoint.steps(folder) == [2, 3]


def _largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_flipped_byte_gives_the_one_before_and_a_warning(folder, state):
    path = _largest_file(folder / "3")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="3.* is skipped"):
        found = checkpoint.restore(folder, state)
    _assert_is(found, state, 2)


def test_a_truncated_file_gives_the_one_before_and_a_warning(folder, state):
    path = _largest_file(folder / "3")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="3.* is skipped"):
        found = checkpoint.restore(folder, state)
    _assert_is(found, state, 2)


def test_nothing_gives_none(tmp_path, state):
    assert checkpoint.steps(tmp_path / "missing") == []
    assert checkpoint.restore(tmp_path / "missing", state) is None


def test_leaves_that_are_not_asked_for_are_left_out(folder, state):
    """The last checkpoint of a run has no optimizer state, and an evaluation needs none."""
    some = state._replace(opt_state=None, params={"model": state.params["model"]})
    assert len(jax.tree.leaves(some)) < len(jax.tree.leaves(state))
    _assert_is(checkpoint.restore(folder, some), some, 3)
    assert checkpoint.restore(folder, {}) == (3, {})


def _changed(state, change):
    """The state with its estimator's parameters changed."""
    return state._replace(params=state.params | {"estimator": change(state.params["estimator"])})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda own: {"new": jnp.zeros(3)}, r"params\.estimator\.new is missing, not float32\[3\]"),
        (
            lambda own: jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), own),
            r"params\.estimator\.\S+ is float32\[\S*\], not float32\[2, ",
        ),
        (
            lambda own: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), own),
            r"params\.estimator\.\S+ is float32\[.*\], not bfloat16\[",
        ),
    ],
    ids=["missing", "shape", "dtype"],
)
def test_another_configuration_is_refused_by_the_name_of_the_leaf(change, sentence, folder, state):
    like = _changed(state, change)
    for other in (like, jax.eval_shape(lambda: like)):
        with pytest.raises(ValueError, match=f"3 belongs to another configuration: {sentence}"):
            checkpoint.restore(folder, other)


@pytest.mark.slow
# Orbax leaves the coroutines of a failed read behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_file_is_damaged_what_is_restored_is_right(folder, state, tmp_path):
    """Emptied, halved, one bit changed, or gone: the newest checkpoint to the bit, or the one before."""
    flipped = lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    )
    damages = [lambda content: b"", lambda content: content[: len(content) // 2], flipped, None]
    restored = []
    for path in [p.relative_to(folder) for p in (folder / "3").rglob("*") if p.is_file() and p.stat().st_size]:
        for damage in damages:
            copy = shutil.copytree(folder, tmp_path / "copy")
            (copy / path).unlink() if damage is None else (copy / path).write_bytes(damage((copy / path).read_bytes()))
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = checkpoint.restore(copy, state)
            _assert_is(found, state, found[0])
            assert len(told) == (found[0] == 2), path
            restored.append(found[0])
            shutil.rmtree(copy)
    assert set(restored) == {2, 3}


@pytest.mark.parametrize("error", [ValueError, OSError])
@pytest.mark.parametrize("number", checkpoint.DISK_FAULTS)
def test_a_fault_of_the_disk_is_an_error_of_the_system_whatever_orbax_raises(number, error, tmp_path):
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught, checkpoint.writer(tmp_path):
        raise error(f"orbax could not write: {os.strerror(number)} [tensorstore]")
    assert caught.value.errno == number


@pytest.mark.parametrize("name", ["run [1]", "run\\1"])
def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="could not be read again"), checkpoint.writer(tmp_path / name / "checkpoints"):
        pass
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("step", [-1, 1_000_000_000])
def test_a_step_that_restore_would_not_see_is_refused(step, tmp_path):
    with (
        pytest.raises(ValueError, match=rf"must be in 0\.\.999999999, got {step}"),
        checkpoint.writer(tmp_path) as (save, _),
    ):
        save(step, {"a": np.zeros(2)})


def test_the_last_step_and_python_numbers_are_restored(tmp_path):
    state = {"count": 3, "rate": 0.5, "flag": True}
    with checkpoint.writer(tmp_path) as (save, _):
        save(checkpoint.LAST_STEP, state)
    assert checkpoint.restore(tmp_path, state) == (999_999_999, state)


def test_a_step_that_exists_is_refused_or_overwritten(tmp_path):
    like = {"a": np.zeros(2)}
    with checkpoint.writer(tmp_path) as (save, _):
        save(1, like)
        with pytest.raises(ValueError, match=r"has a checkpoint of step 1 already; .* overwrite=True"):
            save(1, {"a": np.ones(2)})
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)[1]["a"], np.zeros(2))
    with checkpoint.writer(tmp_path, overwrite=True) as (save, _):
        save(1, {"a": np.ones(2)})
        save(1, {"a": np.full(2, 2.0)})
    assert checkpoint.steps(tmp_path) == [1]
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)[1]["a"], np.full(2, 2.0))


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"two leaves of the state are called a\.b"),
        checkpoint.writer(tmp_path) as (save, _),
    ):
        save(1, {"a": {"b": np.zeros(2)}, "a.b": np.ones(2)})
