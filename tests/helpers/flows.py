"""Small flows with random parameters, for the tests of distributions and of estimators."""

import jax
import jax.numpy as jnp
import numpy as np

from vae import distributions as dist
from vae.distributions import flows

BATCH, CONTEXT = 2, 3
LAYERS = {
    "coupling": lambda dim, hidden: flows.Coupling(dim, hidden),
    "spline_coupling": lambda dim, hidden: flows.Coupling(dim, hidden, flows.Spline(bins=4)),
    "iaf": lambda dim, hidden: flows.Autoregressive(dim, hidden),
}
INVERTIBLE = sorted(LAYERS)
FLOWS = [*INVERTIBLE, "planar"]


def make_flow(name, dim=2, layers=2, hidden=4, scale=0.6, seed=0):
    """A flow of batch_shape `[2]`, all of whose leaves are NumPy arrays of random float32 numbers.

    Args:
      scale: standard deviation of the weights and of the context; 0 gives the identity for T.
    """
    draw = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)
    rng = np.random.default_rng(seed)
    if name == "planar":
        transform, size = flows.Planar(layers), layers * (2 * dim + 1)
    else:
        transform, size = flows.Layers(tuple(LAYERS[name](dim, hidden) for _ in range(layers))), CONTEXT
    zeros = jnp.zeros((1, dim)), jnp.zeros((1, size))
    shapes = jax.eval_shape(transform.init, jax.random.key(0), *zeros)
    weights = jax.tree.map(lambda leaf: scale * draw(*leaf.shape), shapes)
    return dist.Flow(draw(BATCH, dim), 0.2 * draw(BATCH, dim), scale * draw(BATCH, size), weights, transform)
