"""--measure_gradient records the gradient's figures, from keys of its own, and refuses what does not fit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build, program_state, settings
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.train import flags as train_flags
from experiments.train import gradients
from tests.helpers import pages
from tests.helpers.entry_points import train
from vae import checkpoint, diagnostics
from vae.data import pixels
from vae.devices import mesh

SMALL = {"hidden": (4,), "latent_dim": (2,), "objective": "elbo"}


def plan(others: list[str], draws: int = 20, **chosen) -> gradients.Measurement:
    run = Settings(**SMALL | chosen)
    data = build.load_data(run, None)
    return gradients.plan(run, data, build.functions(run, data), others, draws)


@pytest.mark.parametrize(
    ("others", "draws", "chosen", "sentence"),
    [
        (["disarm:num_samples=2"], 20, {}, "--measure_estimators=disarm does not suit --posterior=normal"),
        ([], 25, {}, "--measure_draws=25 must be a multiple of 10"),
        ([], 10, {}, "--measure_draws=10 must be a multiple of 10, and at least 20"),
        (["reparam:num_samples=3"], 20, {"objective": "iwae", "num_samples": 2}, "is a different bound for K=3"),
        (
            [],
            20,
            {"posterior": "vq:codes=4", "estimator": "rotation"},
            "--measure_gradient with --estimator=rotation: there is no .* codes are certain.*or leave out --measure",
        ),
        (
            [],
            20,
            {"objective": "iwae", "posterior": "bernoulli", "estimator": "reinforce", "latent_dim": (16,)},
            "--measure_gradient with --estimator=reinforce: the reference leave_one_out needs K=2",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(others, draws, chosen, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(others, draws, **chosen)


@pytest.mark.parametrize("flag", ["measure_draws=50", "measure_estimators=stl"])
def test_what_to_measure_needs_a_measurement(flag):
    with pytest.raises(ValueError, match=f"--{flag.partition('=')[0]} needs --measure_gradient=1"):
        train_flags.from_flags(pages.parse("experiments.train", [f"--{flag}"]))


def test_the_figures_are_those_of_each_run_at_its_state(monkeypatch):
    """Two runs with a learned baseline, in the second of four epochs of a warm-up; then one thing is another."""
    settings = {"hidden": (), "num_samples": 2, "estimator": "nvil", "objective": "elbo:kl_warmup=4.0"}
    runs = [Settings(**SMALL | settings | {"seed": seed}) for seed in (0, 1)]
    data = build.load_data(runs[0], None)
    functions = build.functions(runs[0], data)
    measurement = gradients.plan(runs[0], data, functions, ["reparam", "reparam:num_samples=8"], 100)
    values = [build.arrays(run) for run in runs]
    at_epoch = lambda state, epoch: state._replace(step=jnp.int32(epoch * functions.steps_per_epoch))
    states = [at_epoch(jax.jit(functions.init)(value), 2) for value in values]

    def measure(states, values):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(states, values, strict=True))
        return measurement.add([{"run": 0}, {"run": 1}], *stacked, mesh.make(2, 1, jax.devices()[:1]))

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # measures the runs side by side
    figure = lambda row, estimator, name: row[f"gradient/{estimator}/encoder/{name}"]
    variance = lambda row: figure(row, "nvil", "variance")
    first, second = measure(states, values)
    assert first["measure_draws"] == 100
    of_reparam = [figure(first, name, "variance") for name in ("reparam", "reparam:num_samples=8")]
    assert of_reparam[1] < 0.5 * of_reparam[0]
    for estimator in ("nvil", "reparam"):
        bias, error = (figure(first, estimator, name) for name in ("bias", "bias_stderr"))
        assert abs(bias) < 4.5 * error < 1
    # The second run is the other first run, and the weight of the KL in this epoch is a half.
    half = values[0] | {"objective.kl_warmup": jnp.float32(1), "objective.beta": jnp.float32(0.5)}
    swapped = measure(states[::-1], [values[1], half])
    assert list(map(variance, swapped)) == pytest.approx([variance(second), variance(first)], rel=1e-4)
    assert variance(first) != pytest.approx(variance(second), rel=1e-3)
    # Every step has its own draws.
    rows = measure([at_epoch(states[0], 4), at_epoch(states[0], 5)], [values[0]] * 2)
    assert variance(rows[0]) != pytest.approx(variance(rows[1]), rel=1e-3)
    # The baseline is that of the run.
    learned = jax.tree.map(lambda leaf: leaf + 10, states[0].params["estimator"])
    other = states[0]._replace(params=states[0].params | {"estimator": learned})
    assert variance(measure([other, states[0]], [values[0]] * 2)[0]) > 1.5 * variance(first)


def test_figures_that_are_not_finite_are_left_out():
    assert gradients.finite({"nan": np.nan, "zero": 0.0, "one": 1.0}) == {"zero": 0.0, "one": 1.0}


def test_the_images_are_the_first_of_the_training():
    measurement = plan([], binarization="threshold", batch_size=8)
    data = build.load_data(Settings(binarization="threshold"), None)
    np.testing.assert_array_equal(measurement.x, pixels(data.train[:8], data.levels))


def rows(folder):
    return ProgramFolder(folder).rows()


@pytest.mark.slow
def test_the_columns_are_the_figures_of_the_checkpoint(tmp_path):
    """Of bits there is an exact truth: DisARM is unbiased, ReinMax is not, and another computation agrees."""
    flags = ["--posterior=bernoulli", "--objective=elbo", "--num_samples=2", "--estimator=disarm", "--batch_size=32"]
    measured = ["--measure_gradient=1", "--measure_estimators=reinmax,relax", "--measure_draws=400"]
    [outcome] = train(tmp_path, [*flags, *measured, "--epochs=30", "--eval_every=30", f"--workdir={tmp_path}/run"])
    assert (outcome.code, outcome.err) == (0, "")

    [row] = rows(tmp_path / "run")
    figure = lambda name, figure: row[f"gradient/{name}/encoder/{figure}"]
    assert abs(figure("disarm", "bias")) < 4.5 * figure("disarm", "bias_stderr")
    assert abs(figure("relax", "bias")) < 4.5 * figure("relax", "bias_stderr")
    assert abs(figure("reinmax", "bias")) > 4.5 * figure("reinmax", "bias_stderr")

    folder = ProgramFolder(tmp_path / "run")
    [run] = folder.runs()
    data = build.load_data(run, None)
    functions = build.functions(run, data)
    state = program_state.select_run(program_state.restore(folder, data, functions).state, 0)
    groups, x = state.params["model"]["params"], build.first_batch(run, data, "train", 32)
    estimator = settings.build(run, "estimator", num_samples=2)
    gradient = diagnostics.make_gradient(build.bound(run, functions.model.apply), estimator)
    arguments = (groups, {"x": x, "epoch": 0.0}, state.params["estimator"], state.estimator_state, x)
    draws = jax.jit(jax.vmap(lambda key: gradient(key, *arguments)["encoder"]))(
        jax.random.split(jax.random.key(5), 2000)
    )
    variance = float(sum(np.var(leaf, axis=0).sum() for leaf in jax.tree.leaves(draws)))
    assert figure("disarm", "variance") == pytest.approx(variance, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "measured"),
    [
        (["--measure_gradient=2", "--measure_draws=20"], [False, True, False, True]),
        (["--objective=elbo", "--estimator=auto:every=10"], [True, True, True, True]),
    ],
)
def test_a_resumed_run_measures_the_same(flags, measured, tmp_path):
    """A measurement at every second evaluation, and an estimator that measures its candidates every ten steps."""
    flags = [*flags, "--checkpoint_every=1", "--epochs=4", "--seed=0,1"]
    folder = tmp_path / "run"
    train(tmp_path / "first", [*flags, f"--workdir={folder}"])
    [program] = (folder / "programs").iterdir()
    before = (program / "metrics.jsonl").read_bytes()
    prefixes = ("gradient/", "auto/")
    assert [any(name.startswith(prefixes) for name in row) for row in rows(program)[::2]] == measured

    shutil.rmtree(program / "checkpoints/4")
    record = json.loads((program / "runs.json").read_text())
    (program / "runs.json").write_text(
        json.dumps(record | {"runs": [{"settings": run["settings"]} for run in record["runs"]]})
    )
    assert checkpoint.steps(program / "checkpoints") == [3]
    train(tmp_path / "second", [*flags, f"--workdir={folder}"])
    assert (program / "metrics.jsonl").read_bytes() == before
