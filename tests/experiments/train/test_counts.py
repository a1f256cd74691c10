"""Counts from an .npz file: what goes with them, a sweep, its evaluation, and the pictures."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import assess, build, pictures, settings
from experiments.common.settings import Settings
from vae import train
from vae.devices import mesh


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "counts.npz"
    rates = np.random.default_rng(0).gamma(2.0, 10.0, size=(40, 1))
    np.savez(path, images=np.random.default_rng(1).poisson(rates, size=(40, 9)))
    sizes = {"hidden": (4,), "latent_dim": (2,), "batch_size": 18}
    return Settings(dataset=f"npz:{path}", likelihood="negative_binomial", binarization="none", **sizes)


def test_a_sweep_on_counts_trains_and_is_evaluated_and_drawn(run, monkeypatch):
    data = build.load_data(run, None)
    assert (data.train.dtype, data.levels, data.has_counts) == (np.int32, 0, True)
    functions = build.functions(run, data)
    values = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(build.arrays(_seed(run, i)) for i in (0, 1)))
    state = jax.vmap(functions.init)(values)
    epoch = jax.jit(train.over_runs(functions.epoch, "vmap", shared=1))
    state, metrics = epoch(state, values, data.train)
    assert metrics["bound"].shape[0] == 2
    assert np.all(np.isfinite(metrics["bound"]))

    devices = mesh.make(2, 18, jax.devices()[:1])
    [rows] = assess.test_figures(functions.evaluated, devices, state, data, run, eval_samples=4)
    # An image has 9 counts.
    assert rows[1]["test_bits_per_dim"] == pytest.approx(rows[1]["test_nll_nats"] / 9 / np.log(2))

    grids = SimpleNamespace(
        reconstructions=lambda *grid: grid,
        **{name: lambda grid, *_, **__: grid for name in ("image_grid", "interpolations", "latent_plane")},
    )
    monkeypatch.setattr(pictures, "plots", grids)
    params = jax.tree.map(lambda leaf: leaf[0], state.params["model"])
    figures = pictures._model_figures(data, functions.evaluated, params)
    originals, decoded = figures["reconstructions"]
    shown = np.arcsinh(data.test) / np.arcsinh(data.test.max())  # white is the largest count
    np.testing.assert_allclose(originals, shown, rtol=1e-6)
    assert decoded.max() < 10


def _seed(run: Settings, number: int) -> Settings:
    return dataclasses.replace(run, seed=number)


def test_what_does_not_go_with_counts_is_refused(run):
    for changes, sentence in (
        (
            {"binarization": "dynamic"},
            "--likelihood=negative_binomial needs counts; give --dataset=npz:FILE with int32 counts, and --binari",
        ),
        ({"data_mean": True}, "takes no --data_mean"),
    ):
        with pytest.raises(ValueError, match=sentence):
            settings.check(dataclasses.replace(run, **changes))
    for changes, sentence in (
        (
            {"likelihood": "gaussian"},
            "has counts; choose --likelihood=poisson or negative_binomial, or save bits as bool",
        ),
        ({"likelihood": "bernoulli", "binarization": "static"}, "has counts, which cannot be binarized; choose"),
        ({"dataset": "digits"}, "--likelihood=negative_binomial needs counts; give --dataset=npz:FILE with int32"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build.load_data(dataclasses.replace(run, **changes), None)
