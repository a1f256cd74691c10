"""The pictures of a run and of a sweep, from a trained model's parameters and a workdir's rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from experiments.common import assess, plots, results
from experiments.common.run_folder import RunFolder
from vae import data as datasets
from vae import distributions, models
from vae.hierarchy import Markov

DRAWN = 12  # images of the test set: ten and their reconstructions, six pairs and the paths between them


def draw_run(folder: RunFolder, data: datasets.Dataset, model: models.VAE, params) -> None:
    """Writes every figure of a run as PNG and PDF."""
    figures = {"learning_curves": plots.learning_curves(folder.rows(), assess.curve_split(data), folder.seconds())}
    figures |= _model_figures(data, model, params)
    for name, figure in figures.items():
        plots.save(figure, folder.figures / name)


def draw_sweep(path, folders: list[RunFolder], names: list[str]) -> None:
    """Writes the comparison of finished runs, best first: bound against steps and seconds, and the rate-distortion
    plane."""
    runs, points = [], []
    found = {folder.path: folder.result() for folder in folders}
    group = lambda row: [str(row[name]) for name in names]
    order = [group(row) for row in results.aggregate(list(found.values()), names)]
    for folder in sorted(folders, key=lambda folder: order.index(group(found[folder.path]))):
        result = found[folder.path]
        label = results.label(result, names).replace("$", r"\$")  # which would begin a formula
        runs.append({"label": label, "rows": folder.rows(), "seconds": folder.seconds(), "status": result["status"]})
        if result["status"] == "done":
            values = {key: result[f"test_{key}"] for key in ("rate_nats", "distortion_nats")}
            points.append({"label": label, **values})
    plots.save(plots.compare_runs(runs), path / "compare_runs")
    if points:
        plots.save(plots.rate_distortion(points), path / "rate_distortion")


@partial(jax.jit, static_argnums=0)
def _decode(model: models.VAE, params, z):
    """Latents `[N, *event]` to the means of the flattened pixels, `[N, H * W * C]`."""
    return model.apply(params, jax.tree.map(lambda leaf: leaf[None], z), method="decode").mean[0]


@partial(jax.jit, static_argnums=0)
def _latents(model: models.VAE, params, x):
    """A sample of the posterior of x, the prior, and 64 samples of that."""
    posterior = model.apply(params, x, method="encode")
    prior = model.apply(params, method="prior_distribution")
    key_posterior, key_prior = jax.random.split(jax.random.key(assess.KEY))
    first = lambda sample: jax.tree.map(lambda leaf: leaf[0], sample)
    return first(posterior.sample(key_posterior, 1)), prior, prior.sample(key_prior, 64)


@partial(jax.jit, static_argnums=0)
def _means(model: models.VAE, params, x):
    """The posterior means of x, `[N, D]`, in memory for a batch of images."""
    return jax.lax.map(lambda x: model.apply(params, x[None], method="encode").mean[0], x, batch_size=500)


def _model_figures(data: datasets.Dataset, model: models.VAE, params):
    shape = data.train.shape[1:]
    x = assess.pixels(data, "test")[:DRAWN]
    z, prior, prior_samples = _latents(model, params, x)
    decode = lambda z: np.asarray(_decode(model, params, z)).reshape(-1, *shape)
    figures = {
        "reconstructions": plots.reconstructions(np.asarray(x[:10]), decode(jax.tree.map(lambda leaf: leaf[:10], z))),
        "prior_samples": plots.image_grid(decode(prior_samples)),
    }
    if isinstance(prior, distributions.Bernoulli | distributions.Categorical | Markov):
        return figures
    rows = len(x) // 2
    left, right = np.asarray(x[0 : 2 * rows : 2]), np.asarray(x[1 : 2 * rows : 2])
    weight = jnp.linspace(0, 1, 10)[:, None]  # [steps, 1]
    paths = (1 - weight) * z[0 : 2 * rows : 2, None] + weight * z[1 : 2 * rows : 2, None]  # [rows, steps, D]
    images = decode(paths.reshape(-1, z.shape[-1])).reshape(rows, -1, *shape)
    figures["interpolations"] = plots.interpolations(np.concatenate([left[:, None], images, right[:, None]], axis=1))
    if isinstance(prior, distributions.Normal) and z.shape[-1] == 2:
        quantiles = (0.02, 0.98)
        axis = norm.ppf(jnp.linspace(*quantiles, 20))
        grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        images = decode(prior.from_noise(grid)).reshape(20, 20, *shape)
        means = np.asarray(_means(model, params, assess.pixels(data, "test")))
        figures["latent_plane"] = plots.latent_plane(images, quantiles, means, quantiles=True)
    return figures
