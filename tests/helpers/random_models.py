"""Random images, and random parameters of a model, without compiling anything."""

import jax
import jax.numpy as jnp
import numpy as np

from vae import models

# Every architecture, as small as it can be.
ARCHITECTURES = {name: make() for name, make in models.ARCHITECTURES.items()}
ARCHITECTURES["resnet"] = models.ARCHITECTURES.make("resnet", blocks=1, width=4)


def images(shape, batch=2, seed=0):
    """Images `[batch, *shape]` with pixels in [0, 1]."""
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(batch, *shape)), jnp.float32)


def parameters(model, x, seed=0):
    """Parameters of the shapes that `model.init` gives, drawn by NumPy, so that no leaf is zero."""
    rng = np.random.default_rng(seed)
    fill = lambda leaf: np.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), np.float32)
    return jax.tree.map(fill, jax.eval_shape(lambda key: model.init(key, x, key), jax.random.key(0)))


def float64(array):
    return np.asarray(array, np.float64)
