"""Annealed importance sampling of a trained run: log p(x) of test images from below, and of images that are simulated
from the model also from above."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.common import assess, phases, results
from experiments.evaluate.flags import Options
from vae import ais, evaluate, models
from vae.data import Dataset

# The seed of the annealing's noise.
SEED = assess.SEED + 1

Row = dict[str, Any]


def settings(options: Options) -> Row:
    """The options of the annealing, as a row records them; empty for none."""
    if not options.ais_steps:
        return {}
    return {name: value for name, value in dataclasses.asdict(options).items() if name.startswith("ais_")}


def check(model: models.VAE, params: Any) -> None:
    """Refuses a model whose latent variables are not real numbers.

    Raises:
      ValueError: If they are not.
    """
    jax.eval_shape(lambda params: ais.require_real(model.apply(params, method="prior_distribution")), params)


def figures(model: models.VAE, params: Any, data: Dataset, options: Options) -> Row:
    """The figures `results.ANNEALED` of a run, means over images in nats, and the options that they belong to.

    The images that are done are shown by `phases.images`.
    """
    x = assess.pixels(data, "test")[: options.ais_images]
    # A parent of its own: the first key of `split(assess.key())` is that of the first image's importance samples.
    key_simulate, key_test, key_simulated = jax.random.split(jax.random.key(SEED, impl="threefry2x32"), 3)
    simulate = jax.jit(lambda params: ais.simulate(model.apply, params, key_simulate, options.ais_images, x.shape[1:]))
    simulated, z = jax.device_get(simulate(params))
    bounds = functools.partial(_make_bounds(model, options), params)
    with phases.images(len(x) + len(simulated), "annealing") as count:
        test = _means(bounds, options, count, x, key_test, None)
        both = _means(bounds, options, count, simulated, key_simulated, z)
    return settings(options) | {
        "ais_test_iw_nats": test["importance"],
        "ais_test_lower_nats": test["lower"],
        "ais_simulated_iw_nats": both["importance"],
        "ais_simulated_lower_nats": both["lower"],
        "ais_simulated_upper_nats": both["upper"],
        "ais_gap_nats": both["upper"] - both["lower"],
        "ais_ess_share": test["ess_share"],
        "ais_acceptance": test["acceptance"],
    }


def describe(rows: list[Row], options: Options) -> str:
    """The table of the figures, under a line that says what they are."""
    heading = (
        f"bounds on log p(x), nats per image: K={options.eval_samples}; AIS of {options.ais_chains} chains with"
        f" {options.ais_steps} steps from {options.ais_start}; {options.ais_images} test images at most and"
        f" {options.ais_images} simulated ones"
    )
    return f"{heading}\n{results.to_markdown(rows, [*results.varying(rows), *results.ANNEALED])}"


@functools.lru_cache(maxsize=2)
def _make_bounds(model: models.VAE, options: Options) -> Callable:
    """The bounds of images x, of which the first has the index `first` in its data set."""

    @jax.jit
    def bounds(params, x, key, z, first):
        annealed = ais.bounds(
            model.apply,
            params,
            x,
            key,
            num_steps=options.ais_steps,
            num_chains=options.ais_chains,
            leapfrog_steps=options.ais_leapfrog,
            start=options.ais_start,
            z=z,
            batch_size=_images_at_once(options.ais_chains),
            first=first,
        )
        batch_size = _images_at_once(assess.CHUNK)
        importance = evaluate.log_likelihood(
            model.apply, params, x, assess.key(), options.eval_samples, batch_size, assess.CHUNK, first
        )
        return annealed | {"importance": importance}

    return bounds


def _images_at_once(samples: int) -> int:
    """The number of images that are evaluated at once, with this number of decoded samples of each."""
    decoded = assess.CPU_DECODED if jax.default_backend() == "cpu" else assess.DECODED
    return max(1, decoded // samples)


def _means(
    bounds: Callable, options: Options, count: Callable[[int], None], x: np.ndarray, key: jax.Array, z: Any
) -> dict[str, float]:
    """The means of the bounds over the images x; `count` is called with the number of images after each part."""
    parts = math.ceil(len(x) / _images_at_once(options.ais_chains))
    values = []
    for chosen in np.array_split(np.arange(len(x)), parts):
        some = lambda array: array[chosen]  # noqa: B023
        values.append(jax.device_get(bounds(some(x), key, jax.tree.map(some, z), chosen[0])))
        count(len(chosen))
    joined = {name: np.concatenate([value[name] for value in values]) for name in values[0]}
    return {name: value.mean(dtype=np.float64).item() for name, value in joined.items()}
