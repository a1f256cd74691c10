"""The random numbers of a run: of the generator that --prng names, and the same in a sweep as alone."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build, jax_settings, settings
from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import PRNGS, Settings
from experiments.train import __main__ as command
from experiments.train import loop
from tests.helpers import entry_points, written_workdirs
from vae import train
from vae.devices import mesh, streaming

OTHERS = PRNGS[1:]


def test_the_generator_is_the_setting_of_the_run_and_not_the_default_of_jax():
    def first_batch(prng: str, default: str) -> np.ndarray:
        run = Settings(hidden=(), latent_dim=(1,), batch_size=500, prng=prng)
        with jax.default_prng_impl(default):
            program = build.functions(run, build.load_data(run, None))
            return np.asarray(jax.jit(program.order)(build.arrays(run), jnp.int32(0)))[0]

    plain = first_batch("threefry2x32", default="threefry2x32")
    np.testing.assert_array_equal(first_batch("threefry2x32", default="rbg"), plain)
    assert not np.array_equal(first_batch("rbg", default="threefry2x32"), plain)


@pytest.fixture
def draws():
    """A function of seeds `[runs]` that draws numbers for each run, as `mode` maps the runs."""

    def draw(seeds, prng: str, mode: str):
        return train.over_runs(lambda seed: jax.random.normal(jax.random.key(seed, impl=prng), (3,)), mode)(seeds)

    return draw


def test_a_run_of_a_sweep_draws_what_it_draws_alone(draws):
    """By the mode that training chooses. The control: under vmap the other generators draw other numbers."""
    both, second = jnp.array([5, 6]), jnp.array([6])
    devices = SimpleNamespace(shape={"run": 1})
    state = SimpleNamespace(step=both, params={})
    for prng in PRNGS:
        mode = loop.choose_mode(Settings(prng=prng), state, devices)
        np.testing.assert_array_equal(draws(both, prng, mode)[1], draws(second, prng, "map")[0])
    assert not np.array_equal(draws(both, "rbg", "vmap")[1], draws(second, "rbg", "map")[0])


def test_the_order_of_streamed_images_is_that_of_the_run_alone():
    def order(values, step):
        return train.make_order(8, 2)(jax.random.key(values["seed"], impl="rbg"), step)

    def chunk(state, values, batches):
        return state, {"bound": jnp.zeros(len(batches))}

    def orders(seeds: list[int]) -> np.ndarray:
        values = {"seed": jnp.array(seeds)}
        state = train.TrainState({}, {}, {}, step=jnp.zeros(len(seeds), jnp.int32))
        over = mesh.make(len(seeds), 2, devices=jax.devices()[:1])
        epoch = streaming.Epoch(order, chunk, np.zeros((8, 1, 1, 1), np.uint8), "map", over, state, values)
        return np.asarray(epoch.order(values, state.step))

    np.testing.assert_array_equal(orders([5, 6])[1], orders([6])[0])


@pytest.mark.parametrize("prng", OTHERS)
def test_side_by_side_is_refused_where_it_would_change_the_numbers(prng):
    with pytest.raises(ValueError, match=f"--sweep_mode=vmap needs --prng=threefry2x32: under --prng={prng}"):
        command.check([Settings(), Settings(prng=prng)], SimpleNamespace(sweep_mode="vmap"))
    command.check([Settings()], SimpleNamespace(sweep_mode="vmap"))
    command.check([Settings(prng=prng)], SimpleNamespace(sweep_mode="auto"))


def test_a_run_is_not_continued_with_another_generator(tmp_path):
    written_workdirs.write_run(tmp_path, Settings())
    ProgramFolder(tmp_path).check_runs([Settings()])
    with pytest.raises(ValueError, match="other settings .prng=threefry2x32."):
        ProgramFolder(tmp_path).check_runs([Settings(prng="rbg")])
    assert len(list(settings.programs([Settings(), Settings(prng="rbg")]))) == 2


def test_settings_of_jax_that_change_numbers_are_fixed_and_named(capsys):
    with jax.enable_x64(True), jax.default_prng_impl("rbg"), jax.numpy_rank_promotion("raise"):
        before = {name: getattr(jax.config, name) for name in jax_settings.FIXED}
        changed = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.config, "update", lambda name, value: changed.append((name, value)))
            jax_settings.fix()
    assert {name for name, value in before.items() if value not in (jax_settings.FIXED[name], None)} == {
        name for name, _ in changed
    }
    assert ("jax_enable_x64", False) in changed
    assert "JAX_DEFAULT_PRNG_IMPL=rbg is ignored; commands use threefry2x32; --prng" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("prng", PRNGS)
def test_a_run_of_a_sweep_is_the_run_alone_under_every_generator(prng, tmp_path):
    common = [f"--prng={prng}", "--sweep_mode=map", "--epochs=2"]
    common += [] if prng == "threefry2x32" else ["--sweep_mode=auto"]
    outcomes = entry_points.train(
        tmp_path / "outcomes",
        [*common, "--seed=0,1", f"--workdir={tmp_path}/sweep"],
        [*common, "--seed=1", f"--workdir={tmp_path}/alone"],
    )
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    [program] = programs_of(tmp_path / "sweep")
    alone = ProgramFolder(tmp_path / "alone")
    ours, theirs = program.rows_by_run()[1], alone.rows()
    for our, their in zip(ours, theirs, strict=True):  # evaluations of several runs side by side are equal to rounding
        assert our.pop("split") == their.pop("split") == "test"  # approx takes numbers only
        assert our == pytest.approx(their | {"run": 1}, rel=1e-5)
        assert our["bound_nats"] == their["bound_nats"]
