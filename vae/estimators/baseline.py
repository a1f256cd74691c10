"""What an estimator learns of the context: a small network, and its inputs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient


class Baseline(nn.Module):
    """`[*batch, F]` to `[*batch]`; zero before training, so that NVIL starts as the moving average."""

    hidden: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        dense = functools.partial(nn.Dense, param_dtype=features.dtype)
        h = nn.tanh(dense(self.hidden)(features))
        return dense(1, kernel_init=nn.initializers.zeros)(h)[..., 0]


def features_of(q, context) -> Array:
    """The context as `[*batch, F]`, in q's precision; a constant where there is none, which leaves a learned constant
    baseline."""
    dtype = jax.tree.leaves(q)[0].dtype
    if context is None:
        return jnp.ones((*q.batch_shape, 1), dtype)
    leaves = [jnp.asarray(c, dtype).reshape(*q.batch_shape, -1) for c in jax.tree.leaves(context)]
    return stop_gradient(jnp.concatenate(leaves, axis=-1))
