"""Shared parts of the families: the decorator `family`, noise, and the reparameterization trick.

To add a family, write a class with the decorator `family`. A location-scale family inherits the trick from
`LocationScale`. Another family writes `rsample`, or only `sample` if its samples carry no gradient. `kl.py` needs a
formula only if there is a closed form.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

# Samples and noise, arrays of jax or of NumPy. `*#samples` is [K, *batch], or a shape that broadcasts to it.
Vectors = Float[Array | np.ndarray, "*#samples D"]
OneHots = Float[Array | np.ndarray, "*#samples D C"]


def family(cls: type) -> type:
    """Makes a frozen dataclass of a class, and registers it as a pytree whose leaves are the fields."""
    # The tests execute annotations, but not those of a family's fields: jax puts shapes, axes and other objects in the
    # place of parameters.
    cls.__no_type_check__ = True
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Uniform on the midpoints of the cells of [0, 1], which are 2^-23 wide in float32 and 2^-52 in float64.

    A draw is never 0 or 1, and 1 - u is exact. Events that are less probable than half a cell never happen; if the
    draws were on the edges of the cells, such events would happen far too often.
    """
    return jax.random.uniform(key, shape, dtype) + jnp.finfo(dtype).eps / 2


def logistic(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Standard logistic noise, made of `uniform`.

    jax.random.logistic draws -87 with probability 2^-23, the probability of all values below -16. A relaxed bit that is
    rarer than 2^-23 would be drawn far too often, and with a wrong importance weight.
    """
    u = uniform(key, shape, dtype)
    return jnp.log(u) - jnp.log1p(-u)


class Reparameterizable:
    """Base of the families that have `rsample`; `sample` is `rsample` without its gradient."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jax.tree.leaves(self)[0].shape[:-1]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return stop_gradient(self.rsample(key, num_samples))


class LocationScale(Reparameterizable):
    """z = mean + scale * eps, where eps comes from `noise`, whose distribution does not depend on the parameters."""

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """The reparameterization trick: z as a function of the noise, through which gradients reach the parameters."""
        return self.mean + self.scale * eps

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self.from_noise(self.noise(key, (num_samples, *self.mean.shape), self.mean.dtype))
