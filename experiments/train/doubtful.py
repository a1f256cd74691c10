"""Warnings about settings that can be trained on the data, but that few users would mean."""

import warnings

import numpy as np

from experiments.common import settings
from experiments.common.settings import Settings
from vae import models
from vae.data import Dataset
from vae.models.likelihoods import GaussianPixels


def warn(run: Settings, data: Dataset) -> None:
    """Warns of colours that become bits, and of a density that has no upper bound."""
    for sentence in (_colours_as_bits(run, data), _unbounded_density(run, data)):
        if sentence:
            warnings.warn(sentence, stacklevel=2)


def _colours_as_bits(run: Settings, data: Dataset) -> str:
    channels = data.train.shape[-1]
    if channels == 1 or data.levels == 2 or run.binarization not in ("dynamic", "static"):
        return ""
    suited = ("any", "grey levels") if data.levels else ("any",)
    names = ", ".join(name for name, make in models.LIKELIHOODS.items() if make().pixels in suited)
    return (
        f"--binarization={run.binarization} draws the {channels} channels of --dataset={run.dataset} as bits; for"
        f" colours, choose --binarization=none and --likelihood={names}"
    )


def _unbounded_density(run: Settings, data: Dataset) -> str:
    """A learned scale goes to zero where the decoder can give the pixel's exact value."""
    likelihood = settings.build(run, "likelihood")
    if not isinstance(likelihood, GaussianPixels) or likelihood.scale == "fixed":
        return ""
    fixed = "--likelihood=gaussian:scale=fixed"
    density = f"the density of --likelihood={run.likelihood} has no upper bound"
    if run.binarization != "none":
        return (
            f"{density} on the two values of --binarization={run.binarization}; choose --binarization=none for grey"
            f" pixels and features, or --likelihood=bernoulli for bits, or {fixed}"
        )
    if data.levels == 2:
        return (
            f"{density} on the two values of --dataset={run.dataset}; choose --likelihood=bernoulli with"
            f" --binarization=threshold, or {fixed}"
        )
    if likelihood.scale == "global" or not isinstance(data.train, np.ndarray):  # one scale cannot fit a single pixel
        return ""
    constant = int(np.sum(np.ptp(data.train, axis=0) == 0))
    if not constant:
        return ""
    count = data.train[0].size
    return (
        f"{density}, because --dataset={run.dataset} has pixels with one value in all training images ({constant} of"
        f" {count}); leave these pixels out, or choose --likelihood=gaussian:scale=global or gaussian:scale=fixed"
    )
