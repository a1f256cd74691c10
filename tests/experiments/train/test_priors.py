"""Runs whose prior is made of the encoder: where they start, in a sweep, and after an interruption."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build, settings
from experiments.common.settings import Settings
from tests.helpers.same_run import assert_same_after_restoring
from vae import data as datasets
from vae import train

RUN = Settings(prior="vamp:components=5", objective="elbo", hidden=(4,), latent_dim=(2,), batch_size=512)


@pytest.fixture(scope="module")
def functions():
    return build.functions(RUN, build.load_data(RUN, None))


def test_a_run_of_a_sweep_is_the_run_alone_and_starts_at_training_images(functions, tmp_path):
    data = build.load_data(RUN, None)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(build.arrays(_seed(i)) for i in (0, 1)))
    epoch = jax.jit(train.over_runs(functions.epoch, "vmap", shared=1))
    start = jax.vmap(functions.init)(stacked)
    inputs = start.params["model"]["params"]["prior"]["pseudo_inputs"]
    spaced = datasets.pixels(data.train[[len(data.train) * k // 5 for k in range(5)]], data.levels)
    assert np.abs(inputs - spaced).max() < 0.06  # noise of standard deviation 0.01
    together, _ = epoch(start, stacked, data.train)
    alone, _ = functions.epoch(functions.init(build.arrays(_seed(1))), build.arrays(_seed(1)), data.train)
    for ours, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(ours, theirs[1], atol=1e-5)
    assert_same_after_restoring(_seed(1), functions, data, alone, tmp_path)


def _seed(number: int) -> Settings:
    return dataclasses.replace(RUN, seed=number)


def test_a_vamp_prior_of_several_layers_and_the_analytic_bound_are_refused():
    with pytest.raises(ValueError, match="--prior=vamp:components=5 needs one stochastic layer; give --latent_dim one"):
        settings.check(dataclasses.replace(RUN, latent_dim=(2, 2)))
    run = dataclasses.replace(RUN, objective="elbo_analytic")
    with pytest.raises(NotImplementedError, match="choose objective=elbo, which needs none"):
        build.functions(run, build.load_data(run, None))
