"""Families whose samples are differentiated implicitly (arXiv:1805.08498): Gamma, Beta and Dirichlet."""

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Reparameterizable, Vectors, family


@family
class Gamma(Reparameterizable):
    """Factorized Gamma by the logs of concentration and rate, both `[*batch, D]`; mean = concentration / rate.

    The gradient of a sample is implicit (arXiv:1805.08498). Samples are clipped at the smallest normal float, because
    those of a small concentration would underflow to zero, which has no logarithm. At a concentration below about 0.05
    more than a hundredth of the mass is clipped, and a Monte Carlo bound is too high.
    """

    log_concentration: Float[Array, "*batch D"]
    log_rate: Float[Array, "*batch D"]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_concentration - self.log_rate)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        shape = (num_samples, *self.log_rate.shape)
        log_draw = jax.random.loggamma(key, jnp.exp(self.log_concentration), shape, self.log_rate.dtype)
        return jnp.maximum(jnp.exp(log_draw - self.log_rate), jnp.finfo(log_draw.dtype).tiny)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(stats.gamma.logpdf(z, jnp.exp(self.log_concentration), scale=jnp.exp(-self.log_rate)), axis=-1)


@family
class Beta(Reparameterizable):
    """Factorized Beta by the logs of its two concentrations, both `[*batch, D]`; a sample's gradient is implicit.

    Samples lie between the smallest normal float and 1 - 6e-8, the last float32 before 1. If beta is below about 0.3, a
    part of the mass lies beyond that, and a Monte Carlo bound is too high.
    """

    log_alpha: Float[Array, "*batch D"]
    log_beta: Float[Array, "*batch D"]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jax.nn.sigmoid(self.log_alpha - self.log_beta)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        log_concentrations = jnp.stack([self.log_alpha, self.log_beta], axis=-1)
        z = Dirichlet(log_concentrations).rsample(key, num_samples)[..., 0]
        return jnp.minimum(z, 1 - jnp.finfo(z.dtype).epsneg)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(stats.beta.logpdf(z, jnp.exp(self.log_alpha), jnp.exp(self.log_beta)), axis=-1)


@family
class Dirichlet(Reparameterizable):
    """Dirichlet over D parts by the logs of its concentrations `[*batch, D]`; a sample's gradient is implicit. Samples
    are clipped at the smallest normal float, as Gamma's are."""

    log_concentration: Float[Array, "*batch D"]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jax.nn.softmax(self.log_concentration, axis=-1)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        shape = (num_samples, *self.log_concentration.shape)
        log_draw = jax.random.loggamma(key, jnp.exp(self.log_concentration), shape, self.log_concentration.dtype)
        return jnp.maximum(jax.nn.softmax(log_draw, axis=-1), jnp.finfo(log_draw.dtype).tiny)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        concentration = jnp.exp(self.log_concentration)
        return jnp.sum(xlogy(concentration - 1, z) - gammaln(concentration), -1) + gammaln(jnp.sum(concentration, -1))
