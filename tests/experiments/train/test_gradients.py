"""--measure_gradient records the gradient's figures, from keys of its own, and refuses what does not fit."""

import json
import shutil

import jax
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
