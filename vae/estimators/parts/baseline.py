"""A small network of the context, which serves as an input-dependent control."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Distribution


class Baseline(nn.Module):
    """Maps features `[*batch, F]` to `[*batch]` with one hidden layer of tanh units. The output starts at 0."""

    hidden: int

    @nn.compact
    def __call__(self, features: Float[Array, "*batch F"]) -> Float[Array, "*batch"]:
        dense = functools.partial(nn.Dense, param_dtype=features.dtype)
        h = nn.tanh(dense(self.hidden)(features))
        return dense(1, kernel_init=nn.initializers.zeros)(h)[..., 0]


def features_of(q: Distribution, context: PyTree) -> Float[Array, "*batch F"]:
    """Returns the context as one vector for each datum, in the dtype of q.

    Without a context the vector is the constant 1, and a network of the vector learns a constant.
    """
    dtype = jax.tree.leaves(q)[0].dtype
    if context is None:
        return jnp.ones((*q.batch_shape, 1), dtype)
    for c in jax.tree.leaves(context):
        if c.shape[: len(q.batch_shape)] != q.batch_shape:
            raise ValueError(f"context must begin with the axes [*batch] = {list(q.batch_shape)}, got {list(c.shape)}")
    event_size = lambda c: math.prod(c.shape[len(q.batch_shape) :])
    leaves = [jnp.asarray(c, dtype).reshape(*q.batch_shape, event_size(c)) for c in jax.tree.leaves(context)]
    return stop_gradient(jnp.concatenate(leaves, axis=-1))
