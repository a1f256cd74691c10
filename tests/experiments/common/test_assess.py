"""The evaluation of trained runs shows how far it is."""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import assess, build, phases
from experiments.common.settings import Settings
from vae.data import Dataset
from vae.devices import mesh


def test_the_evaluation_says_how_many_images_are_done(monkeypatch, capsys):
    """Two runs, their moving averages and 700 images, in slices of 500."""
    monkeypatch.setattr(phases, "MINUTE", 0)
    names = "log_likelihood", "ess_share", "pareto_k"
    weights = lambda params, x, first: dict.fromkeys(names, jnp.ones((2, len(x))))
    monkeypatch.setattr(assess, "_make_importance_weights", lambda *arguments: weights)
    monkeypatch.setattr(assess, "bound", lambda model, devices, params, x: [{"elbo_nats": -1.0}, {"elbo_nats": -2.0}])
    images = np.zeros((700, 1, 1, 1), np.uint8)
    data = Dataset("digits", images, images[:0], images, levels=2, checksum="")
    state = SimpleNamespace(params={"model": {"w": jnp.zeros(2)}}, ema={"w": jnp.zeros(2)})
    devices = mesh.make(2, 1, jax.devices()[:1])
    (rows,) = assess.test_figures(None, devices, state, data, Settings(), eval_samples=5)
    assert [row["ema_test_elbo_nats"] for row in rows.values()] == [-1.0, -2.0]
    lines = re.findall(r"(.*) \(after", capsys.readouterr().out)
    assert lines == [f"evaluating, K=5, image {n} of 2,800" for n in ("1,000", "1,400", "2,400", "2,800")]


def test_the_share_of_heavy_tails_is_of_the_images_that_have_a_tail():
    weights = {"log_likelihood": np.zeros(4), "ess_share": np.ones(4)}
    share = lambda *ks: assess.weight_figures(weights | {"pareto_k": np.array(ks)}).get("heavy_tail_share")
    assert share(0.9, 0.2, math.nan, math.nan) == 0.5
    assert share(*[math.nan] * 4) is None


def test_a_figure_has_its_name_in_the_table_of_results():
    row = assess._test_row({"elbo_nats": -1.0, "parameters": 7}, None, Settings())
    assert row == {"test_elbo_nats": -1.0, "parameters": 7}


@pytest.mark.parametrize(
    ("levels", "dtype", "binarization", "offset"),
    [
        (17, np.uint8, "none", 4),
        (0, np.int32, "none", 0),
        (0, np.float32, "none", None),
        (17, np.uint8, "static", None),
    ],
)
def test_only_grey_levels_and_counts_have_bits_per_dimension(levels, dtype, binarization, offset):
    """A density of floats has no unit in which it could be compared with them."""
    images = np.zeros((2, 3, 4, 1), dtype)
    data = Dataset("mine", images, images, images, levels=levels, checksum="")
    run = Settings(binarization=binarization, likelihood="poisson" if dtype == np.int32 else "gaussian")
    row = assess._test_row({"nll_nats": 12 * np.log(2)}, data, run)
    assert row.get("test_bits_per_dim") == (None if offset is None else pytest.approx(1 + offset))


def test_a_single_image_has_no_active_units():
    run = Settings(hidden=(4,), latent_dim=(2,))
    data = build.load_data(run, None)
    model = build.functions(run, data).evaluated
    x = assess.pixels(data, "test")[:2]
    params = jax.tree.map(lambda leaf: leaf[None], jax.jit(model.init)(jax.random.key(0), x, jax.random.key(0)))
    devices = mesh.make(1, 1, jax.devices()[:1])
    assert "active_units" in assess.bound(model, devices, params, x)[0]
    assert "active_units" not in assess.bound(model, devices, params, x[:1])[0]


def test_the_learning_curve_is_that_of_the_validation_split_and_has_twenty_points():
    images = np.zeros((2, 1, 1, 1), np.uint8)
    data = Dataset("digits", images, images, images, levels=2, checksum="")
    assert assess.curve_split(data) == "validation"
    assert assess.curve_split(data._replace(validation=images[:0])) == "test"
    assert [assess.curve_spacing(epochs) for epochs in (1, 20, 60, 100)] == [1, 1, 3, 5]


def test_each_run_has_its_own_figures_where_memory_suffices_for_some_runs_and_some_images(monkeypatch):
    """Five runs, two at a time, and 700 white test images in slices of 500. The figures of a fake model are its
    parameter; log p(x) also has the index of the first image of the slice, and the mean of the images."""

    def make_bound(model, devices, mode):
        return lambda params, x: ({"elbo_nats": params["w"]}, [params["w"].astype(int), jnp.ones(len(params["w"]))])

    def make_importance_weights(model, num_samples, devices, mode):
        def weights(params, x, first):
            values = params["w"][:, None] + first + x.mean(axis=(1, 2, 3))
            return {"log_likelihood": values, "ess_share": values, "pareto_k": values}

        return weights

    monkeypatch.setattr(assess, "_make_bound", make_bound)
    monkeypatch.setattr(assess, "_make_importance_weights", make_importance_weights)
    black, white = np.zeros((700, 1, 1, 1), np.uint8), np.ones((700, 1, 1, 1), np.uint8)
    data = Dataset("digits", black, black[:0], white, levels=2, checksum="")
    devices = mesh.make(5, 1, jax.devices()[:1])
    monkeypatch.setattr(assess, "CPU_MEMORY", 2.5 * assess.image_bytes(devices, white))
    state = SimpleNamespace(params={"model": {"w": jnp.arange(5.0)}}, ema={"w": jnp.arange(5.0) + 10})
    parts = list(assess.test_figures(None, devices, state, data, Settings(), eval_samples=5))
    assert [list(part) for part in parts] == [[0, 1], [2, 3], [4]]
    first = 500 * 200 / 700  # the mean over the images
    for i, row in {number: row for part in parts for number, row in part.items()}.items():
        assert (row["test_elbo_nats"], row["ema_test_elbo_nats"]) == (i, i + 10)
        assert (row["active_units"], row["active_units_by_layer"]) == (i + 1, f"{i}+1.0")
        assert row["test_nll_nats"] == pytest.approx(-(i + first + 1))
        assert row["ema_test_nll_nats"] == pytest.approx(-(i + 10 + first + 1))
        assert row["test_heavy_tail_share"] == 1.0
        assert "test_bits_per_dim" not in row


def test_an_image_has_the_same_noise_in_every_slice(monkeypatch):
    run = Settings(hidden=(4,), latent_dim=(2,))
    data = build.load_data(run, None)
    model = build.functions(run, data).evaluated
    x = np.repeat(assess.pixels(data, "test")[:1], 4, axis=0)
    params = jax.tree.map(lambda leaf: leaf[None], jax.jit(model.init)(jax.random.key(0), x, jax.random.key(0)))
    devices = mesh.make(1, 1, jax.devices()[:1])
    whole = assess.importance_weights(model, devices, params, x, 3)["log_likelihood"]
    monkeypatch.setattr(assess, "SLICE", 2)
    parts = assess.importance_weights(model, devices, params, x, 3)["log_likelihood"]
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert len(set(whole[0].tolist())) == 4  # each place in the data set has noise of its own
