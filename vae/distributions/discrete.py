"""Distributions of bits and of one-hot vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import OneHots, Vectors, family, uniform
from vae.distributions.special import softplus

# The log-probability of what cannot happen: its exponential is 0, and its square is a float.
IMPOSSIBLE = -1.8e19


@family
class Bernoulli:
    """Factorized Bernoulli by its logits `[*batch, D]`; samples are 0. or 1.

    A logit may be infinite. An impossible bit has the log-probability -1.8e19 and not -inf: gradients stay finite.
    """

    logits: Float[Array, "*batch D"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jax.nn.sigmoid(self.logits)

    def threshold(self, u: Vectors) -> Float[Array, "*#samples D"]:
        """1 where u < sigmoid(logits), else 0: a sample, for uniform u `[K, *batch, D]`."""
        return (u < self.mean).astype(self.logits.dtype)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self.threshold(uniform(key, (num_samples, *self.logits.shape), self.logits.dtype))

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(_log_prob_of_bits(self.logits, z), axis=-1)


@jax.custom_jvp
def _log_prob_of_bits(logits: Vectors, z: Vectors) -> Float[Array, "*#samples D"]:
    """z * logits - softplus(logits), which is finite for every finite logit."""
    logits = _finite(logits)
    return z * logits - softplus(logits)


# Without the rule, the derivative would pass through `_finite`, which costs a hundredth of a training step on a CPU.
# With tangent * (z - sigmoid) as the first part, XLA would make three passes of the one.
_log_prob_of_bits.defjvps(
    lambda tangent, _, logits, z: tangent * z - tangent * jax.nn.sigmoid(logits),
    lambda tangent, _, logits, z: tangent * _finite(logits),
)


def _finite(logits: Vectors) -> Float[Array, "*#samples D"]:
    """The logits, where an infinite one, whose product with a bit of 0 would be NaN, is replaced."""
    return jnp.where(jnp.isinf(logits), jnp.copysign(-IMPOSSIBLE, logits), logits)


class ByClassLogits:
    """Base of the families that are given by logits `[*batch, D, C]`; `mean` is the probability of each class."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-2]

    @property
    def mean(self) -> Float[Array, "*batch D C"]:
        return jax.nn.softmax(self.logits, axis=-1)


@family
class Categorical(ByClassLogits):
    """D independent categorical variables of C classes by logits `[*batch, D, C]`; samples are one-hot.

    A logit of -inf makes its class impossible, with the log-probability -1.8e19 and not -inf: gradients stay finite.
    """

    logits: Float[Array, "*batch D C"]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D C"]:
        if self.logits.shape[-1] == 2:  # a bit needs one uniform number and no logarithm
            first = Bernoulli(self.logits[..., 0] - self.logits[..., 1]).sample(key, num_samples)
            return jnp.stack([first, 1 - first], axis=-1)
        index = jax.random.categorical(key, self.logits, shape=(num_samples, *self.logits.shape[:-1]))
        return jax.nn.one_hot(index, self.logits.shape[-1], dtype=self.logits.dtype)

    def log_prob(self, z: OneHots) -> Float[Array, "*#samples"]:
        log_probs = jax.nn.log_softmax(self.logits, axis=-1)
        log_probs = jnp.nan_to_num(log_probs, nan=jnp.nan, neginf=IMPOSSIBLE)  # -inf times a zero of z would be NaN
        return jnp.sum(z * log_probs, axis=(-2, -1))
