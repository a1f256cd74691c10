"""The pictures of a run and of a sweep, from a trained model's parameters and a workdir's rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from experiments import assess
from experiments.workdir import RunFolder
from vae import datasets, distributions, models, plots


def draw_run(folder: RunFolder, data: datasets.Dataset, model: models.VAE, params) -> list[str]:
    """Writes every figure of a run as PNG and PDF; returns their names."""
    figures = {"learning_curves": plots.learning_curves(folder.rows(), assess.curve_split(data), _seconds(folder))}
    figures |= _model_figures(data, model, params)
    for name, figure in figures.items():
        plots.save(figure, folder.figures / name)
    return list(figures)


def draw_sweep(path, folders: list[RunFolder], names: list[str]) -> None:
    """Writes the comparison of finished runs: bound against steps and seconds, and the rate-distortion plane."""
    runs, points = [], []
    for folder in folders:
        result = folder.result()
        label = ", ".join(f"{name}={result[name]}" for name in names) or result["estimator"]
        runs.append({"label": label, "rows": folder.rows(), "seconds": _seconds(folder)})
        if result["status"] == "done":
            values = {key: result[f"test_{key}"] for key in ("rate_nats", "distortion_nats")}
            points.append({"label": label, **values})
    plots.save(plots.compare_runs(runs), path / "compare_runs")
    if points:
        plots.save(plots.rate_distortion(points), path / "rate_distortion")


def _seconds(folder: RunFolder) -> list[float] | None:
    timing = {row["step"]: row["train_seconds"] for row in folder.rows("timing.jsonl")}
    steps = [row["step"] for row in folder.rows()]
    return [timing[step] for step in steps] if set(steps) <= set(timing) else None


def _model_figures(data: datasets.Dataset, model: models.VAE, params):
    shape = data.train.shape[1:]
    x = assess.pixels(data, "test")
    posterior = model.apply(params, x, method="encode")
    prior = model.apply(params, method="prior_distribution")
    key_posterior, key_prior = jax.random.split(jax.random.key(assess.KEY))

    @jax.jit
    def decode(z):
        """Latents [N, *event] to the means of the pixels [N, H, W, C]."""
        return model.apply(params, z[None], method="decode").mean[0].reshape(-1, *shape)

    z = posterior.sample(key_posterior, 1)[0]
    figures = {
        "reconstructions": plots.reconstructions(np.asarray(x[:10]), np.asarray(decode(z[:10]))),
        "prior_samples": plots.image_grid(np.asarray(decode(prior.sample(key_prior, 64)))),
    }
    if not isinstance(prior, distributions.Bernoulli | distributions.Categorical):
        left, right = x[0:12:2], x[1:12:2]
        weight = jnp.linspace(0, 1, 10)[:, None]  # [steps, 1]
        paths = (1 - weight) * z[0:12:2][: len(right), None] + weight * z[1:12:2, None]  # [rows, steps, D]
        images = decode(paths.reshape(-1, paths.shape[-1])).reshape(*paths.shape[:2], *shape)
        images = jnp.concatenate([left[: len(right), None], images, right[:, None]], axis=1)
        figures["interpolations"] = plots.interpolations(np.asarray(images))
    if isinstance(prior, distributions.Normal) and z.shape[-1] == 2:
        quantiles = (0.02, 0.98)
        axis = norm.ppf(jnp.linspace(*quantiles, 20))
        grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
        images = decode(grid.reshape(-1, 2)).reshape(20, 20, *shape)
        means = np.asarray(posterior.mean)
        figures["latent_plane"] = plots.latent_plane(np.asarray(images), quantiles, means, quantiles=True)
    return figures
