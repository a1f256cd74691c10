"""Runs with a posterior of several blocks and an estimator for each: settings, a sweep, an interruption, pictures."""

import csv

import jax.numpy as jnp
import pytest

from experiments.common import build, setting_flags
from experiments.train import loop
from tests.helpers import entry_points, pages
from tests.helpers.same_run import assert_same_after_restoring
from vae import TrainState
from vae.devices import mesh

MODEL = ["--posterior=categorical:categories=4+normal", "--latent_dim=1+2"]


def settings(*arguments):
    return setting_flags.from_flags(pages.parse("experiments.train", [*MODEL, *arguments]))


def test_blocks_keep_their_options_and_numbers_of_samples():
    [run] = settings("--estimator=leave_one_out:num_samples=4+reparam", "--prior=learned")
    assert run.estimator == "leave_one_out:num_samples=4+reparam"
    assert run.latent_dim == ((1, 2),)
    assert run.json()["latent_dim"] == "1+2"
    assert run.choice("posterior").blocks[0].options == (("categories", 4),)
    runs = settings("--estimator=exact+reparam,gumbel_softmax:temperature=1e+1+stl", "--objective=elbo", "--seed=0,1")
    assert [run.estimator for run in runs[::2]] == ["exact+reparam", "gumbel_softmax:temperature=10.0+stl"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--latent_dim=3"], "has 2 blocks in one layer; give --latent_dim a number for each, as in --latent_dim=8.8"),
        (["--posterior=normal"], "--latent_dim=1.2 is for a posterior of several blocks"),
        (["--prior=vamp"], "--prior=vamp needs one family.* choose --prior=standard or learned"),
    ],
)
def test_settings_that_do_not_go_with_blocks_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings("--estimator=exact+reparam", *arguments)


def test_runs_with_blocks_may_be_side_by_side():
    [run] = settings("--estimator=exact+reparam")
    state = TrainState({"model": jnp.zeros((2, 3))}, (), (), jnp.zeros(2))
    assert loop.choose_mode(run, state, mesh.make(2, batch_size=1)) in ("vmap", "map")


@pytest.mark.slow
def test_a_restored_run_is_the_same_run_bit_for_bit(tmp_path):
    [run] = settings("--estimator=leave_one_out+reparam", "--prior=learned", "--hidden=4", "--batch_size=512")
    data = build.load_data(run, None)
    functions = build.functions(run, data)
    state, _ = functions.epoch(functions.init(build.arrays(run)), build.arrays(run), data.train)
    assert_same_after_restoring(run, functions, data, state, tmp_path)


@pytest.mark.slow
def test_a_sweep_is_trained_drawn_and_measured(tmp_path):
    workdir = tmp_path / "sweep"
    sweep = [*MODEL, "--epochs=2", "--hidden=8", "--eval_samples=2", f"--workdir={workdir}", "--objective=elbo"]
    sweep += ["--estimator=exact+reparam,nvil+stl", "--prior=standard,learned", "--seed=0,1"]
    [trained] = entry_points.run("experiments.train", [sweep], tmp_path / "train")
    assert trained.code == 0, trained.err
    rows = list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))
    assert {(row["estimator"], row["step_evaluations"]) for row in rows} == {("exact+reparam", "4"), ("nvil+stl", "1")}
    assert all("+" in row["active_units_by_layer"] for row in rows)
    assert len(list(workdir.glob("programs/*/figures/*/reconstructions.png"))) == 4
    measured = [f"--workdir={workdir}", "--run=estimator=exact+reparam,prior=learned,seed=1", "--draws=200"]
    measured += ["--batch_size=4", f"--output={tmp_path / 'laboratory'}"]
    [compared] = entry_points.run("experiments.compare_estimators", [measured], tmp_path / "compare")
    assert compared.code == 0, compared.err
    assert {"exact+reparam", "leave_one_out"} <= set(compared.out.replace("|", " ").split())
