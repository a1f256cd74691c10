"""The table of optimizers, and optimizers that the command line names as module:function."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from experiments.common import build, setting_flags, settings
from experiments.common.optimizers import OPTIMIZERS
from experiments.common.settings import Settings

PARAMS = {"model": {"w": np.float32([1.0, -2.0])}, "estimator": {"v": np.float32([3.0])}}
GRADS = jax.tree.map(lambda leaf: np.float32(0.1) * leaf, PARAMS)


def parse(*argv: str) -> list[Settings]:
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *argv])
    return setting_flags.from_flags(values)


def updated(tx: optax.GradientTransformation) -> dict:
    """The parameters after two steps with the same gradient."""

    @jax.jit
    def two_steps(params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(GRADS, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return two_steps(PARAMS)


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


def test_the_options_of_adamw_hold_for_both_parts_and_both_rates_follow_the_schedule():
    options = "adamw:weight_decay=0.5:epsilon=0.3:cv_learning_rate=0.02"
    params = of_command(f"--optimizer={options}", "--schedule=cosine", "--epochs=3")
    rate, own_rate = (optax.cosine_decay_schedule(peak, 30) for peak in (0.1, 0.02))
    for part, tx in (
        ("model", optax.adamw(rate, eps=0.3, weight_decay=0.5)),
        ("estimator", optax.adam(own_rate, eps=0.3)),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params[part], updated(tx)[part])
    default = of_command("--optimizer=adamw")["model"]["w"]
    np.testing.assert_allclose(default, updated(optax.adamw(0.1, weight_decay=1e-4))["model"]["w"], rtol=1e-6)


def test_cv_learning_rate_is_the_rate_of_what_the_estimator_learns():
    def bounds(estimator):
        bits = ["--posterior=bernoulli", "--objective=elbo", "--num_samples=2", "--hidden=4", "--latent_dim=2"]
        bits += ["--batch_size=256", "--epochs=2", f"--estimator={estimator}"]
        runs = parse(*bits, "--optimizer=adam:cv_learning_rate=1e-3,adam:cv_learning_rate=10")
        data = build.load_data(runs[0], None)
        program = build.functions(runs[0], data)
        bound = jax.jit(lambda values, images: program.epoch(program.init(values), values, images)[1]["bound"])
        return [bound(build.arrays(run), data.train).item() for run in runs]

    slow, fast = bounds("double_cv")
    assert slow != fast
    slow, fast = bounds("leave_one_out")
    assert slow == fast


def test_what_a_control_variate_learns_by_does_not_scale_the_model():
    run = parse("--clip_norm=1")[0]
    params = {"model": {"w": jnp.ones(3)}, "estimator": {"v": jnp.ones(2)}}
    tx = build.optimizer(run, build.arrays(run), 10)

    @jax.jit
    def moments(size):
        grads = {"model": {"w": jnp.full(3, 0.1)}, "estimator": {"v": jnp.full(2, size)}}
        _, state = tx.update(grads, tx.init(params), params)
        [adam] = [part for part in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")]
        return adam.mu

    small, large = moments(1e-3), moments(1e3)
    np.testing.assert_array_equal(large["model"]["w"], small["model"]["w"])
    np.testing.assert_allclose(np.linalg.norm(large["estimator"]["v"]), 0.1, rtol=1e-5)  # (1 - 0.9) of a norm of 1


def test_an_optimizer_of_the_user_has_the_options_and_the_schedule_of_the_command_line():
    params = of_command("--optimizer=optax:lion:b1=0.5:weight_decay=0.3", "--schedule=cosine", "--epochs=3")
    expected = updated(optax.lion(optax.cosine_decay_schedule(0.1, 30), b1=0.5, weight_decay=0.3))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), params, expected)
    [run] = parse("--optimizer=optax:lion:b1=0.9")  # the default of optax
    assert run.optimizer == "optax:lion"


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        ("adamw:weight_decay=-1", "weight_decay must be at least 0, got -1.0"),
        ("sgd", "there is no optimizer 'sgd'; choose one of adam, adamw, .*or module:function, as in optax:sgd"),
        ("nowhere:lion", "--optimizer=nowhere:lion cannot be imported: No module named 'nowhere'"),
        ("optax:lyon", "--optimizer=optax:lyon cannot be imported: .* has no attribute 'lyon'"),
        ("optax:apply_updates", "apply_updates cannot be called with a learning rate alone; give a function"),
        ("optax:lion:beta=1", "optax:lion has no option 'beta'; its options are b1=0.9, b2=0.99, weight_decay=0.001"),
        ("adam:epsilon", "'epsilon' is not option=value|there is no optimizer 'adam:epsilon'|cannot be imported"),
    ],
)
def test_a_wrong_optimizer_is_refused_in_a_sentence(optimizer, sentence):
    with pytest.raises((ValueError, flags.IllegalFlagValueError), match=sentence):
        parse(f"--optimizer={optimizer}")


def test_the_command_line_warms_up_over_epochs_and_keeps_the_digests_of_plain_schedules():
    [warm, plain, default] = parse("--schedule=cosine:warmup=1,cosine:warmup=0,constant")
    assert [run.schedule for run in (warm, plain, default)] == ["cosine:warmup=1.0", "cosine", "constant"]
    assert (plain.digest(), default.digest()) == ("2968a4d4", Settings().digest())
    first = updated(build.optimizer(warm, build.arrays(warm), steps_per_epoch=10))["model"]["w"]
    np.testing.assert_allclose(PARAMS["model"]["w"] - first, [1e-4, -1e-4], rtol=1e-3)  # steps at 0 and at 1e-4


@pytest.mark.usefixtures("restored_tables")
def test_a_factory_that_returns_an_optimizer_and_no_function_is_refused():
    OPTIMIZERS.add("lion_itself", lambda b1=0.9: optax.lion(1e-3, b1))
    [run] = parse("--optimizer=lion_itself")
    with pytest.raises(ValueError, match=r"returned a GradientTransformationExtraArgs; return a function make\("):
        build.optimizer(run, build.arrays(run), steps_per_epoch=10)


def test_a_function_that_returns_no_optimizer_is_refused():
    [run] = parse("--optimizer=optax:constant_schedule")
    with pytest.raises(ValueError, match="returned a function; return an optax.GradientTransformation"):
        build.optimizer(run, build.arrays(run), steps_per_epoch=10)


@pytest.mark.parametrize("name", ["this:s", "os:getenv", "optax:lion:b1=0.5"])
def test_an_optimizer_that_a_file_names_is_read_and_not_imported(name):
    run = settings.from_json({"optimizer": name})
    assert run.optimizer == name
    assert settings.array_values(run) == settings.array_values(Settings())
    with pytest.raises(ValueError, match=f"--optimizer={name}: there is no optimizer '{name}'"):
        build.optimizer(run, build.arrays(run), steps_per_epoch=10)
    assert "this" not in sys.modules
