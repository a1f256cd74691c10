"""Operations on the images of a data set: scaling, binarization and the mean image."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray, Shaped

from vae.data.dataset import Dataset, checksummed
from vae.data.on_disk import OnDisk

BINARIZATIONS = ("none", "dynamic", "static", "threshold")


def pixels(images: Shaped[Array | np.ndarray, "*shape"], levels: int) -> Float[Array | np.ndarray, "*shape"]:
    """Images as float32 in [0, 1]: grey level / (levels - 1). Float images stay as they are, and NumPy stays NumPy.

    Counts, which are int32, become float32.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    if images.dtype == jnp.int32:
        return images.astype(np.float32)
    return images.astype(np.float32) / np.float32(levels - 1)


def binarize(key: PRNGKeyArray, x: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """One draw for each pixel x in [0, 1], float32 0 or 1: dynamic binarization inside a step.

    A pixel takes 16 random bits, because random bits are the cost of a draw. P(1) is x rounded to a multiple of 2^-16:
    exact at 0 and 1, and within 2^-17 of x elsewhere.
    """
    rows = x.reshape(*x.shape[:1], math.prod(x.shape[1:]))
    half = -(-rows.shape[-1] // 2)
    bits = jax.random.bits(key, (*rows.shape[:-1], half), jnp.uint32)
    below = jnp.concatenate([bits & 0xFFFF, bits >> 16], axis=-1)[..., : rows.shape[-1]]
    ink = below.astype(jnp.float32) + 0.5 < rows.astype(jnp.float32) * 2.0**16
    return ink.astype(jnp.float32).reshape(x.shape)


def mean_image(data: Dataset, margin: float = 1e-3) -> tuple[float, ...]:
    """The mean of each pixel over the training images, as a flat tuple.

    Each mean is at least `margin` away from 0 and 1, because the decoder takes its logit.
    """
    white = max(data.levels - 1, 1)
    pieces = [data.train]
    if isinstance(data.train, OnDisk):
        pieces = (data.train[start : start + 1000] for start in range(0, len(data.train), 1000))
    total = sum(piece.reshape(len(piece), -1).sum(axis=0, dtype=np.float64) for piece in pieces)
    mean = total / len(data.train) / white
    return tuple(np.clip(mean, margin, 1 - margin).tolist())


def fix_binarization(data: Dataset, binarization: str, seed: int = 0) -> Dataset:
    """Binarizes the splits whose pixels are not drawn again in each step.

    Args:
      data: the data set.
      binarization: one of `BINARIZATIONS`. none: no split is binarized. static: every split is drawn once
        (Salakhutdinov and Murray 2008). dynamic: validation and test are drawn once, and train stays grey for
        `binarize`. threshold: a pixel becomes 1 if it is at least 0.5.
      seed: seed of the draws. They depend on the seed and the split alone.

    White becomes `levels - 1`, so that `pixels` gives 0 and 1.

    Raises:
      ValueError: for an unknown binarization, and for training images on disk, which cannot be binarized beforehand.
    """
    if binarization not in BINARIZATIONS:
        raise ValueError(f"binarization={binarization} is unknown; choose one of {', '.join(BINARIZATIONS)}")
    if binarization == "none":
        return data
    if data.has_counts:
        raise ValueError(
            f"dataset={data.name} has counts, which cannot be binarized; choose binarization=none with "
            "likelihood=poisson or negative_binomial, or save bits as bool and grey levels as uint8"
        )
    if binarization != "dynamic" and isinstance(data.train, OnDisk):
        raise ValueError(
            f"binarization={binarization} needs training images in memory, and those of dataset={data.name} stay on "
            "disk; choose binarization=dynamic, or load the set with a larger max_bytes"
        )
    white = max(data.levels - 1, 1)
    splits = [data.train, data.validation, data.test]
    for i in (1, 2) if binarization == "dynamic" else (0, 1, 2):
        if binarization == "threshold":
            ink = splits[i] >= white / 2
        else:
            ink = _draw(np.random.default_rng((seed, i)), splits[i], data.levels)
        splits[i] = ink.astype(splits[i].dtype) * white
    files = data.files if binarization == "dynamic" else b""
    return checksummed(data.name, splits, data.levels, files)._replace(labels=data.labels)


def _draw(rng: np.random.Generator, images: np.ndarray, levels: int) -> np.ndarray:
    """Draws of Bernoulli(pixel). For u uniform on 0..levels-2, P(u < k) = k / (levels - 1) exactly; u has one byte."""
    if levels == 0:
        return rng.random(images.shape, dtype=np.float32) < images
    return rng.integers(0, levels - 1, images.shape, dtype=np.uint8) < images
