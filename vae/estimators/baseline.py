"""What an estimator learns of the context: a small network, and its inputs."""

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
        h = nn.tanh(nn.Dense(self.hidden)(features))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(h)[..., 0]


def features_of(q, context) -> Array:
    """The context as `[*batch, F]`; a constant where there is none, which leaves a learned constant baseline."""
    if context is None:
        return jnp.ones((*q.batch_shape, 1))
    leaves = [jnp.asarray(c, jnp.float32).reshape(*q.batch_shape, -1) for c in jax.tree.leaves(context)]
    return stop_gradient(jnp.concatenate(leaves, axis=-1))
