"""The table of optimizers, and optimizers that the command line names as module:function."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from experiments.common import build, cli, setting_flags, settings
from experiments.common.settings import Settings

PARAMS = {"model": {"w": jnp.float32([1.0, -2.0])}, "estimator": {"v": jnp.float32([3.0])}}
GRADS = jax.tree.map(lambda leaf: 0.1 * leaf, PARAMS)


def parse(*argv: str) -> list[Settings]:
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *argv])
    return setting_flags.from_flags(values)


def updated(tx: optax.GradientTransformation) -> dict:
    """The parameters after two steps with the same gradient."""
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def of_command(*argv: str) -> dict:
    [run] = parse("--learning_rate=0.1", *argv)
    return updated(build.optimizer(run, build.arrays(run), steps_per_epoch=10))


def test_adamw_decays_the_model_and_not_what_the_estimator_learns():
    params = of_command("--optimizer=adamw:weight_decay=0.5")
    np.testing.assert_allclose(
        params["model"]["w"], updated(optax.adamw(0.1, weight_decay=0.5))["model"]["w"], rtol=1e-6
    )
    np.testing.assert_allclose(params["estimator"]["v"], updated(optax.adam(0.1))["estimator"]["v"], rtol=1e-6)
    assert np.abs(params["model"]["w"] - of_command()["model"]["w"]).max() > 0.01


def test_an_optimizer_of_the_user_has_the_options_and_the_schedule_of_the_command_line():
    params = of_command("--optimizer=optax:lion:b1=0.5:weight_decay=0.3", "--schedule=cosine", "--epochs=3")
    expected = updated(optax.lion(optax.cosine_decay_schedule(0.1, 30), b1=0.5, weight_decay=0.3))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), params, expected)
    [run] = parse("--optimizer=optax:lion:b1=0.9")  # the default of optax
    assert run.optimizer == "optax:lion"
    assert cli.command("report").split()[3:] == ["--import=optax"]


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        ("adamw:weight_decay=-1", "weight_decay must be at least 0, got -1.0"),
        ("nowhere:lion", "nowhere:lion: nowhere:lion cannot be imported: No module named 'nowhere'"),
        ("optax:lyon", "optax:lyon: optax:lyon cannot be imported: .* has no attribute 'lyon'"),
        ("optax:apply_updates", "cannot be called with a learning rate alone; give a function like optax.lion"),
        ("optax:lion:beta=1", "optax:lion has no option 'beta'; its options are b1=0.9, b2=0.99, weight_decay=0.001"),
        ("adam:epsilon", "'epsilon' is not option=value|there is no optimizer 'adam:epsilon'|cannot be imported"),
    ],
)
def test_a_wrong_optimizer_is_refused_in_a_sentence(optimizer, sentence):
    with pytest.raises((ValueError, flags.IllegalFlagValueError), match=sentence):
        parse(f"--optimizer={optimizer}")


def test_a_function_that_returns_no_optimizer_is_refused():
    [run] = parse("--optimizer=optax:constant_schedule")
    with pytest.raises(ValueError, match="returned a function; return an optax.GradientTransformation"):
        build.optimizer(run, build.arrays(run), steps_per_epoch=10)


@pytest.mark.parametrize("name", ["this:s", "os:getenv", "optax:lion"])
def test_a_file_cannot_name_an_optimizer_that_the_command_line_has_not_imported(name):
    with pytest.raises(
        ValueError, match=f"there is no optimizer '{name}' here; .* its module by --import={name.split(':')[0]}"
    ):
        settings.from_json({"optimizer": name})
    assert "this" not in sys.modules


def test_a_file_names_an_optimizer_of_an_imported_package(monkeypatch):
    monkeypatch.setenv("VAE_IMPORT", "optax")
    assert settings.from_json({"optimizer": "optax:lion:b1=0.5"}).optimizer == "optax:lion:b1=0.5"
