"""A small network of the context, as a control that depends on the input."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Distribution


class Baseline(nn.Module):
    """`[*batch, F]` to `[*batch]`, with one hidden layer of tanh units. Its output is 0 before training."""

    hidden: int

    @nn.compact
    def __call__(self, features: Float[Array, "*batch F"]) -> Float[Array, "*batch"]:
        dense = functools.partial(nn.Dense, param_dtype=features.dtype)
        h = nn.tanh(dense(self.hidden)(features))
        return dense(1, kernel_init=nn.initializers.zeros)(h)[..., 0]


def features_of(q: Distribution, context: PyTree) -> Float[Array, "*batch F"]:
    """The context as one vector for each datum, in q's precision. Without a context the vector is a constant, and the
    network learns a constant baseline."""
    dtype = jax.tree.leaves(q)[0].dtype
    if context is None:
        return jnp.ones((*q.batch_shape, 1), dtype)
    leaves = [jnp.asarray(c, dtype).reshape(*q.batch_shape, -1) for c in jax.tree.leaves(context)]
    return stop_gradient(jnp.concatenate(leaves, axis=-1))
