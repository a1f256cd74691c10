"""Free probabilities of the grey levels of a pixel, and mixtures of discretized logistics."""

from dataclasses import field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Vectors, check_levels, family
from vae.distributions.discretized_logistic import DiscretizedLogistic, is_outside
from vae.distributions.mixture import Mixture


@family
class GreyLevels:
    """Independent pixels, each with a probability for each of C grey levels, by logits `[*batch, D, C]`.

    Level c is the pixel c / (C - 1), in [0, 1]. A pixel more than half a level outside of it has the log-probability
    -inf.
    """

    logits: Float[Array, "*batch D C"]

    def check(self) -> None:
        check_levels(self, self.logits.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-2]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        levels = jnp.linspace(0, 1, self.logits.shape[-1], dtype=self.logits.dtype)
        return jnp.sum(jax.nn.softmax(self.logits, axis=-1) * levels, axis=-1)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        level = jax.random.categorical(key, self.logits, shape=(num_samples, *self.logits.shape[:-1]))
        return level.astype(self.logits.dtype) / (self.logits.shape[-1] - 1)

    def log_prob(self, x: Vectors) -> Float[Array, "*#samples"]:
        levels = jnp.arange(self.logits.shape[-1], dtype=self.logits.dtype)
        here = jnp.round(x * (self.logits.shape[-1] - 1))[..., None] == levels  # faster than a gather and its transpose
        logit = jnp.sum(jnp.where(here, self.logits, 0.0), axis=-1)
        logit = jnp.where(is_outside(x, self.logits.shape[-1]), -jnp.inf, jnp.where(jnp.isnan(x), jnp.nan, logit))
        return jnp.sum(logit - jax.nn.logsumexp(self.logits, axis=-1), axis=-1)


@family
class DiscretizedLogisticMixture:
    """Independent pixels, each a mixture of M discretized logistics (Salimans et al. 2017, arXiv:1701.05517).

    Logits, means and log-scales are `[*batch, D, M]`. Channels are independent, unlike in the paper.
    """

    logits: Float[Array, "*batch D M"]
    means: Float[Array, "*batch D M"]
    log_scale: Float[Array, "*batch D M"]
    levels: int = field(default=256, metadata={"static": True})

    def check(self) -> None:
        check_levels(self, self.levels)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-2]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        """The mean of the continuous mixture."""
        return self._pixels.mean[..., 0]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self._pixels.sample(key, num_samples)[..., 0]

    def log_prob(self, x: Vectors) -> Float[Array, "*#samples"]:
        impossible = is_outside(x, self.levels)
        log_prob = self._pixels.log_prob(jnp.where(impossible, 0.5, x)[..., None])  # at 0.5, the derivative is finite
        return jnp.sum(jnp.where(impossible, -jnp.inf, log_prob), axis=-1)

    @property
    def _pixels(self) -> Mixture:
        """The pixels as a batch of mixtures, `[*batch, D]`, each of one dimension."""
        logistics = DiscretizedLogistic(self.means[..., None], self.log_scale[..., None], self.levels)
        return Mixture(self.logits, logistics)
