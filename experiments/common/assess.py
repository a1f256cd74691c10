"""The figures of a model on one split, for the curves and the results of training, and for `experiments.evaluate`."""

import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.common.build import bits_per_dim
from experiments.common.settings import Settings
from vae import data as datasets
from vae import evaluate, models

# The seed of the evaluation's noise. It is the same for every run, so runs differ only by their models.
SEED = 2013
# The number of samples of z for each image in the ELBO.
ELBO_SAMPLES = 10
# The number of images whose -log p(x) is computed between two steps of the progress bar.
SLICE = 500


def key() -> jax.Array:
    """The key of the evaluation's noise. Under vmap, other generators than threefry would draw other numbers."""
    return jax.random.key(SEED, impl="threefry2x32")


def curve_split(data: datasets.Dataset) -> str:
    """The split of the learning curves: validation if the data have one, else test."""
    return "validation" if len(data.validation) else "test"


def pixels(data: datasets.Dataset, split: str) -> jax.Array:
    """The images of a split as the model sees them, float32 in [0, 1]."""
    return jnp.asarray(datasets.pixels(getattr(data, split), data.levels))


# Cached: the learning curve and the result of a run use the same compiled function, and so do runs that differ only in
# their estimator.
@functools.lru_cache(maxsize=4)
def make_bound(model: models.VAE) -> Callable:
    """`bound(params, x) -> dict`: ELBO, rate and distortion (nats, means over the images x) and active units."""

    @jax.jit
    def compute(params, x):
        terms = evaluate.rate_distortion(model.apply, params, x, key(), ELBO_SAMPLES)
        figures = {f"{name}_nats": jnp.mean(values) for name, values in terms.items()}
        units = evaluate.active_units(model.apply, params, x, key())
        return figures | {"active_units": sum(units)}, units

    def bound(params, x):
        figures, units = compute(params, x)
        row = {name: value.item() for name, value in figures.items()}
        return row if len(units) == 1 else row | {"active_units_by_layer": "+".join(str(n.item()) for n in units)}

    return bound


@functools.lru_cache(maxsize=4)
def make_nll(model: models.VAE, num_samples: int) -> Callable:
    """`nll(params, x) -> float`: the importance-weighted -log p(x) with K = num_samples, nats, the mean over images.

    It shows a progress bar on a terminal.
    """

    @jax.jit
    def log_likelihood(params, x, first):
        return evaluate.log_likelihood(model.apply, params, x, key(), num_samples, first=first)

    def nll(params, x) -> float:
        starts = range(0, len(x), SLICE)
        bar = tqdm(starts, f"-log p(x), K={num_samples}", unit="slice", leave=False, disable=not sys.stdout.isatty())
        return -np.concatenate([log_likelihood(params, x[i : i + SLICE], i) for i in bar]).mean(dtype=np.float64).item()

    return nll


def make_test_figures(model: models.VAE, data: datasets.Dataset, run: Settings, eval_samples: int) -> Callable:
    """`test_figures(params) -> dict`: the test figures of a result row."""
    bound = make_bound(model)
    nll = make_nll(model, eval_samples)

    def test_figures(params) -> dict[str, float]:
        x = pixels(data, "test")
        figures = bound(params, x)
        row = {"test_nll_nats": nll(params, x)}
        row |= {f"test_{name}": value for name, value in figures.items() if name.endswith("_nats")}
        if run.binarization == "none":
            row["test_bits_per_dim"] = bits_per_dim(row["test_nll_nats"], data, run.likelihood)
        return row | {name: value for name, value in figures.items() if name.startswith("active_units")}

    return test_figures
