"""Relaxed bits and relaxed one-hot vectors, at a temperature."""

import math
from dataclasses import field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import (
    Invertible,
    LocationScale,
    OneHots,
    Reparameterizable,
    Vectors,
    check_temperature,
    family,
    logistic,
)
from vae.distributions.discrete import ByClassLogits


@family
class BinaryConcrete(Invertible, LocationScale):
    """The binary Concrete distribution of a relaxed bit, by the bit's logits `[*batch, D]` and a temperature (Maddison,
    Mnih & Teh 2016, arXiv:1611.00712).

    Samples are the *logits* of the relaxed bit, which are logistic variables. The relaxed bit itself would round to 0
    or 1, where its density is infinite. Networks read `sigmoid(z)`. Logits must be finite.
    """

    logits: Float[Array, "*batch D"]
    temperature: float = field(default=2 / 3, metadata={"static": True})
    noise = staticmethod(logistic)

    def check(self) -> None:
        check_temperature(self, self.temperature)

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        """P(z > 0), the probability that the bit is 1."""
        return jax.nn.sigmoid(self.logits)

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """z = (logits + eps) / temperature, for standard logistic eps `[K, *batch, D]`."""
        return (self.logits + eps) / self.temperature

    def to_noise(self, z: Vectors) -> Float[Array, "*#samples D"]:
        return self.temperature * z - self.logits

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        x = self.to_noise(z)
        log_density = jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x) + math.log(self.temperature)
        return jnp.sum(log_density, axis=-1)


@family
class ExpConcrete(Invertible, ByClassLogits, Reparameterizable):
    """The Concrete distribution of D relaxed one-hot variables of C classes, by logits `[*batch, D, C]` and a
    temperature (Maddison, Mnih & Teh 2016, arXiv:1611.00712, appendix C.3).

    Samples are the *logarithms* of the relaxed variable, which itself would round to 0 and 1. Networks read `exp(z)`.
    `mean` is the probability that a class is the largest: the probability of the one-hot variable. Logits must be
    finite.
    """

    logits: Float[Array, "*batch D C"]
    temperature: float = field(default=2 / 3, metadata={"static": True})

    def check(self) -> None:
        check_temperature(self, self.temperature)

    def from_noise(self, eps: OneHots) -> Float[Array, "*#samples D C"]:
        """z = log softmax((logits + eps) / temperature), for standard Gumbel eps `[K, *batch, D, C]`."""
        return jax.nn.log_softmax((self.logits + eps) / self.temperature, axis=-1)

    def to_noise(self, z: OneHots) -> Float[Array, "*#samples D C"]:
        """The noise of z, up to a constant of each variable, which `from_noise` removes."""
        return self.temperature * z - self.logits

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D C"]:
        # The lowest value of jax.random.gumbel is -4.5, with probability 2^-23. That makes the tail e^4.5 times as
        # likely as it should be, which moves E[p/q] by 1e-5.
        return self.from_noise(jax.random.gumbel(key, (num_samples, *self.logits.shape), self.logits.dtype))

    def log_prob(self, z: OneHots) -> Float[Array, "*#samples"]:
        """The density of the log-ratios of all classes to the last class: the differences of z's coordinates."""
        classes = self.logits.shape[-1]
        x = self.logits - self.temperature * z
        constant = math.lgamma(classes) + (classes - 1) * math.log(self.temperature)
        return jnp.sum(constant + jnp.sum(jax.nn.log_softmax(x, axis=-1), axis=-1), axis=-1)
