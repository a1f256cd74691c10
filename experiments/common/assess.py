"""The figures of a trained model on one split, for training's evaluations, its end, and `experiments.evaluate`."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.common.build import bits_per_dim
from experiments.common.settings import Settings
from vae import data as datasets
from vae import evaluate, models

# The same noise for every run, so that differences between runs are differences between models.
KEY = 2013
ELBO_SAMPLES = 10
# Images of which -log p(x) is found between two steps of the progress bar.
SLICE = 500


def curve_split(data: datasets.Dataset) -> str:
    """What learning curves are measured on: validation where there is any, else test."""
    return "validation" if len(data.validation) else "test"


def pixels(data: datasets.Dataset, split: str) -> jax.Array:
    """The images of a split as the model sees them, float32 in [0, 1]."""
    return jnp.asarray(datasets.pixels(getattr(data, split), data.levels))


# Kept for the next caller: a run's curves and its end share the program, and so do runs that differ in their estimator.
@functools.lru_cache(maxsize=4)
def make_bound(model: models.VAE):
    """`bound(params, x) -> dict` of ELBO, rate, distortion (nats an image, means over x) and active units; jitted."""

    @jax.jit
    def bound(params, x):
        terms = evaluate.rate_distortion(model.apply, params, x, jax.random.key(KEY), ELBO_SAMPLES)
        row = {f"{name}_nats": jnp.mean(values) for name, values in terms.items()}
        units = evaluate.active_units(model.apply, params, x, jax.random.key(KEY))
        return row | {"active_units": sum(units)}, units

    def row(params, x):
        figures, units = bound(params, x)
        row = {name: value.item() for name, value in figures.items()}
        return row if len(units) == 1 else row | {"active_units_by_layer": "+".join(str(n.item()) for n in units)}

    return row


@functools.lru_cache(maxsize=4)
def make_nll(model: models.VAE, num_samples: int):
    """`nll(params, x) -> nats`, the importance-weighted -log p(x) of K = num_samples, with a progress bar."""

    @jax.jit
    def of_slice(params, x, first):
        key = jax.random.key(KEY)
        return evaluate.log_likelihood(model.apply, params, x, key, num_samples, first=first)

    def nll(params, x) -> float:
        starts = range(0, len(x), SLICE)
        bar = tqdm(starts, f"-log p(x), K={num_samples}", unit="slice", leave=False, disable=not sys.stdout.isatty())
        return -np.concatenate([of_slice(params, x[i : i + SLICE], i) for i in bar]).mean(dtype=np.float64).item()

    return nll


def make_judge(model: models.VAE, data: datasets.Dataset, run: Settings, eval_samples: int):
    """`judge(params) -> dict` of the test figures of a result row."""
    bound, nll = make_bound(model), make_nll(model, eval_samples)

    def judge(params) -> dict[str, float]:
        x = pixels(data, "test")
        figures = bound(params, x)
        row = {"test_nll_nats": nll(params, x)}
        row |= {f"test_{name}": value for name, value in figures.items() if name.endswith("_nats")}
        if run.binarization == "none":
            row["test_bits_per_dim"] = bits_per_dim(row["test_nll_nats"], data, run.likelihood)
        return row | {name: value for name, value in figures.items() if name.startswith("active_units")}

    return judge
