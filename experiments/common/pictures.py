"""The pictures of a run and of a sweep, from the parameters of a trained model and the rows of a workdir."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.common import assess, plots, program_state, results
from experiments.common.program_folder import ProgramFolder
from vae import data as datasets
from vae import distributions, evaluate, models

# Images of the test set that are drawn: ten with their reconstructions, and six pairs with the paths between them.
DRAWN = 12
# The latent plane: images on each side, and the quantiles of the prior that it covers.
PLANE_SIZE = 20
QUANTILES = (0.02, 0.98)

# The row of results.csv of a run, its evaluations, and the seconds of training by epoch.
Curve = tuple[dict[str, Any], list[dict[str, Any]], dict[int, float]]


def draw_curves(folder: ProgramFolder, numbers: list[int], data: datasets.Dataset) -> None:
    """Writes the learning curves of runs of a program, by their numbers, as PNG and PDF."""
    rows, seconds, figures = folder.rows_by_run(), folder.seconds(), folder.figures()
    for i in numbers:
        figure = plots.learning_curves(rows[i], assess.curve_split(data), results.seconds_at(rows[i], seconds))
        plots.save(figure, figures[i] / "learning_curves")


def draw_models(
    folder: ProgramFolder, numbers: list[int], data: datasets.Dataset, model: models.VAE, params: Any
) -> None:
    """Writes the pictures of models of runs of a program, by their numbers. Grids of images are PNG alone.

    Args:
      params: The parameters of all runs, with a leading axis of runs.
    """
    figures = folder.figures()
    for i in numbers:
        for name, figure in _model_figures(data, model, program_state.select_run(params, i)).items():
            plots.save(figure, figures[i] / name)


def draw_sweep(path: Path, runs: list[Curve], names: list[str]) -> None:
    """Writes the pictures of finished runs: the bound against steps and seconds, and the rate-distortion plane.

    Args:
      runs: For each run its row of results.csv, its evaluations, and the seconds of training by epoch.
      names: The names of the settings in which the runs differ. The best setting is drawn first.
    """
    curves = []
    points = []
    for _, members in results.group(runs, names, lambda run: run[0]):
        for row, evaluations, seconds in members:
            label = results.label(row, names).replace("$", r"\$")  # a plain $ would begin a formula
            times = results.seconds_at(evaluations, seconds)
            curve = {"label": label, "rows": evaluations, "seconds": times, "status": row["status"]}
            curves.append(curve | {key: row[key] for key in ("step_evaluations",) if key in row})
            if row["status"] == "done":
                rates = {key: row[f"test_{key}"] for key in ("rate_nats", "distortion_nats")}
                points.append({"label": label, **rates})
    plots.save(plots.compare_runs(curves), path / "compare_runs")
    if points:
        plots.save(plots.rate_distortion(points), path / "rate_distortion")


@partial(jax.jit, static_argnums=0)
def _decode(model: models.VAE, params, z):
    """Latents `[N, *event]` -> means of the flattened pixels, `[N, H * W * C]`."""
    return model.apply(params, jax.tree.map(lambda leaf: leaf[None], z), method="decode").mean[0]


@partial(jax.jit, static_argnums=0)
def _latents(model: models.VAE, params, x):
    """A sample of the posterior of x, the prior, and 64 samples of the prior."""
    posterior = model.apply(params, x, method="encode")
    prior = model.apply(params, method="prior_distribution")
    key_posterior, key_prior = jax.random.split(assess.key())
    first = lambda sample: jax.tree.map(lambda leaf: leaf[0], sample)
    return first(posterior.sample(key_posterior, 1)), prior, prior.sample(key_prior, 64)


@partial(jax.jit, static_argnums=0)
def _means(model: models.VAE, params, x):
    """The posterior means of x, `[N, D]`, encoded in batches to save memory."""
    mean = lambda x: evaluate.latent_means(model.apply(params, x[None], method="encode"), assess.key(), 25)[0][0]
    return evaluate.in_batches(mean, x, 500)


def _model_figures(data: datasets.Dataset, model: models.VAE, params) -> dict[str, Figure | np.ndarray]:
    """The pictures of a model, by their names. Interpolations need continuous latents, the plane two of them."""
    shape = data.train.shape[1:]
    x = assess.pixels(data, "test")[:DRAWN]
    z, prior, prior_samples = jax.device_get(_latents(model, params, x))
    drawn_as = _counts_as_pixels(white=float(x.max())) if data.has_counts else np.asarray
    x = drawn_as(x)
    decode = lambda z: drawn_as(_decode(model, params, z)).reshape(-1, *shape)
    figures = {
        "reconstructions": plots.reconstructions(x[:10], decode(jax.tree.map(lambda leaf: leaf[:10], z))),
        "prior_samples": plots.image_grid(decode(prior_samples)),
    }
    posterior = jax.eval_shape(partial(model.apply, method="encode"), params, x)
    if isinstance(z, tuple) or not hasattr(posterior, "rsample"):
        return figures
    if len(x) > 1:
        # On a sphere, the points between two latents are moved out to the sphere.
        unit = lambda z: z / np.linalg.norm(z, axis=-1, keepdims=True)
        on_sphere = isinstance(posterior, distributions.PowerSpherical | distributions.VonMisesFisher)
        read = (lambda z: decode(unit(z))) if on_sphere else decode
        figures["interpolations"] = plots.interpolations(_paths(x, z, read))
    if isinstance(prior, distributions.Normal) and z.shape[-1] == 2:
        axis = np.array([NormalDist().inv_cdf(q) for q in np.linspace(*QUANTILES, PLANE_SIZE)], np.float32)
        places = np.asarray(prior.from_noise(np.stack([axis, axis], axis=-1))).T  # [2, PLANE_SIZE]
        grid = np.stack(np.meshgrid(*places), axis=-1).reshape(-1, 2)
        images = decode(grid).reshape(PLANE_SIZE, PLANE_SIZE, *shape)
        means = np.asarray(_means(model, params, assess.pixels(data, "test")))
        labels = data.labels["test"] if data.labels else None
        figures["latent_plane"] = plots.latent_plane(images, places, means, labels)
    return figures


def _counts_as_pixels(white: float) -> Callable:
    """The function of counts that draws them in [0, 1] as arcsinh, because a few of them are much larger than most."""
    return lambda counts: np.arcsinh(counts) / np.arcsinh(max(1.0, white))


def _paths(x: np.ndarray, z, decode: Callable) -> np.ndarray:
    """Images along straight paths between pairs of latents, with the data at both ends, `[pairs, steps, H, W, C]`."""
    pairs = len(x) // 2
    left = slice(0, 2 * pairs, 2)
    right = slice(1, 2 * pairs, 2)
    weight = np.linspace(0, 1, 10, dtype=np.float32)[:, None]  # [steps, 1]
    paths = (1 - weight) * z[left, None] + weight * z[right, None]  # [pairs, steps, D]
    images = decode(paths.reshape(-1, z.shape[-1])).reshape(pairs, -1, *x.shape[1:])
    return np.concatenate([x[left, None], images, x[right, None]], axis=1)
