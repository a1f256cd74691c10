"""The discretized logistic: a probability for each grey level of a pixel."""

import math
from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vae.distributions.base import Vectors, check_levels, family, logistic
from vae.distributions.special import Numbers


@family
class DiscretizedLogistic:
    """A probability for each of `levels` grey levels: a logistic over pixels in [0, 1], integrated over a level's bin.

    Mean and log-scale are `[*batch, D]` (Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017, arXiv:1701.05517).
    The first and the last bin include the tails. Samples are those of the continuous logistic, rounded to a level; they
    carry no gradient. A pixel more than half a bin outside of [0, 1] has the log-probability -inf.
    """

    mean: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    levels: int = field(default=256, metadata={"static": True})

    def check(self) -> None:
        check_levels(self, self.levels)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.mean.shape[:-1]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        eps = logistic(key, (num_samples, *self.mean.shape), self.mean.dtype)
        bins = self.levels - 1
        return stop_gradient(jnp.round(jnp.clip(self.mean + jnp.exp(self.log_scale) * eps, 0, 1) * bins) / bins)

    def log_prob(self, x: Vectors) -> Float[Array, "*#samples"]:
        half, inverse = 0.5 / (self.levels - 1), jnp.exp(-self.log_scale)
        upper, lower = (x + half - self.mean) * inverse, (x - half - self.mean) * inverse
        below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), which does not cancel in the far tails.
        inside = below + above + _log1mexp(math.log(2 * half) - self.log_scale)
        log_prob = jnp.where(x < half, below, jnp.where(x > 1 - half, above, inside))
        return jnp.sum(jnp.where(is_outside(x, self.levels), -jnp.inf, log_prob), axis=-1)


def is_outside(x: Vectors, levels: int) -> Bool[Array | np.ndarray, "*#samples D"]:
    """Whether pixels are more than half a level outside of [0, 1]."""
    half = 0.5 / (levels - 1)
    return (x < -half) | (x > 1 + half)


def _log1mexp(log_width: Numbers) -> Float[Array, "*#shape"]:
    """log(1 - exp(-width)), also where the width is so small that it underflows."""
    width = jnp.exp(jnp.clip(log_width, -20, 20))
    return jnp.where(log_width < -20, log_width, jnp.log(-jnp.expm1(-width)))
