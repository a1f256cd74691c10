"""The evaluation of trained runs shows how far it is."""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import assess, phases
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
