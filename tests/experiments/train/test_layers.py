"""Runs of three stochastic layers whose inference begins at the top: a sweep, an interruption, pictures, samples."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.settings import Settings
from tests.helpers import entry_points
from tests.helpers.same_run import assert_same_after_restoring
from vae import train

pytestmark = pytest.mark.slow

RUN = Settings(latent_dim=(4, 3, 2), objective="elbo", hidden=(6,), layer_hidden=(5,), batch_size=512)


@pytest.mark.parametrize("inference", ["top_down", "ladder"])
def test_a_run_of_a_sweep_is_the_run_alone_and_a_restored_run_is_the_same_run(inference, tmp_path):
    first, second = [dataclasses.replace(RUN, inference=inference, seed=seed) for seed in (0, 1)]
    data = build.load_data(first, None)
    functions = build.functions(first, data)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), build.arrays(first), build.arrays(second))
    epoch = jax.jit(train.over_runs(functions.epoch, "vmap", shared=1))
    together, _ = epoch(jax.vmap(functions.init)(stacked), stacked, data.train)
    alone, _ = functions.epoch(functions.init(build.arrays(second)), build.arrays(second), data.train)
    for ours, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(ours, theirs[1], atol=1e-5)
    assert_same_after_restoring(second, functions, data, alone, tmp_path)


def test_a_sweep_is_trained_evaluated_and_drawn(tmp_path):
    sizes = ["--latent_dim=4-3-2", "--hidden=8", "--epochs=2", "--eval_samples=2", "--objective=elbo"]
    sweeps = {
        "normal": ["--inference=bottom_up,top_down,ladder", "--estimator=stl"],
        "bits": ["--inference=top_down,ladder", "--posterior=bernoulli", "--estimator=disarm:by_layer=true"],
    }
    arguments = [[*sizes, *own, "--num_samples=2", f"--workdir={tmp_path}/{name}"] for name, own in sweeps.items()]
    for done in entry_points.run("experiments.train", arguments, tmp_path / "train"):
        assert done.code == 0, done.err
    for name, number in (("normal", 3), ("bits", 2)):
        rows = list(csv.DictReader((tmp_path / name / "results.csv").read_text().splitlines()))
        assert len({row["inference"] for row in rows}) == number
        assert all(row["active_units_by_layer"].count("+") == 2 for row in rows)
        assert list((tmp_path / name).glob("**/reconstructions.png")), name
        assert list((tmp_path / name).glob("**/*samples*.png")), name
