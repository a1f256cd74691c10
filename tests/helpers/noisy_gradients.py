"""A gradient estimate without an estimator: skewed draws, their truth, and the same draws in an array."""

import jax
import jax.numpy as jnp
import numpy as np

from vae import diagnostics

SHAPE = {"encoder": {"first": {"kernel": (3, 2), "bias": (2,)}, "last": {"bias": ()}}, "decoder": {"w": (2,)}}
IS_SHAPE = lambda node: isinstance(node, tuple)


def noisy_gradient(key):
    """Skewed draws around a mean that is far from zero."""
    shapes, structure = jax.tree.flatten(SHAPE, is_leaf=IS_SHAPE)
    keys = jax.random.split(key, len(shapes))
    draws = [3.0 + jnp.exp(jax.random.normal(k, shape, jnp.float32)) for k, shape in zip(keys, shapes, strict=True)]
    return structure.unflatten(draws)


def some_truth():
    """A truth that is not the mean of the draws."""
    shapes, structure = jax.tree.flatten(SHAPE, is_leaf=IS_SHAPE)
    rng = np.random.default_rng(0)
    return diagnostics.exactly(structure.unflatten([4 + rng.normal(size=shape) for shape in shapes]))


def flat(tree):
    """A tree of stacked draws as one array `[draws, coordinates]`."""
    return np.concatenate([np.float64(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def flat_one(tree):
    """A tree of one draw as a vector."""
    return flat(jax.tree.map(lambda leaf: leaf[None], tree))[0]


def stored(draws, key):
    """The draws themselves, stacked."""
    return jax.vmap(lambda i: noisy_gradient(jax.random.fold_in(key, i)))(jnp.arange(draws))
