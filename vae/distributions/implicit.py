"""Families whose samples are differentiated implicitly (arXiv:1805.08498): Gamma, Beta and Dirichlet.

Their densities and divergences are accurate for logs of concentrations from -80 to 80 (`special.py`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Reparameterizable, Vectors, family
from vae.distributions.special import HALF_LOG_2PI, Numbers, gamma_kernel, log_gamma_draws, log_positive, stirling_error


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
        log_z = log_gamma_draws(key, self.log_concentration, num_samples) - self.log_rate
        # Samples are at most e^88: at infinity the density and the derivative would be NaN.
        return jnp.maximum(jnp.exp(jnp.minimum(log_z, 88.0)), jnp.finfo(log_z.dtype).tiny)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        log_a, log_z = self.log_concentration, log_positive(z)
        log_density = gamma_kernel(log_a, self.log_rate - log_a, log_z) + _log_peak(log_a)
        return jnp.sum(jnp.where(z < 0, -jnp.inf, log_density), axis=-1)


@family
class Beta(Reparameterizable):
    """Factorized Beta by the logs of its two concentrations, both `[*batch, D]`; a sample's gradient is implicit.

    Samples lie between the smallest normal float and 1 - 6e-8, the last float32 before 1. If beta is below about 0.3, a
    part of the mass lies beyond that, and a Monte Carlo bound is too high.
    """

    log_alpha: Float[Array, "*batch D"]
    log_beta: Float[Array, "*batch D"]

    @property
    def as_dirichlet(self) -> "Dirichlet":
        """The same distribution of (z, 1 - z), with batch_shape `[*batch, D]`."""
        return Dirichlet(jnp.stack([self.log_alpha, self.log_beta], axis=-1))

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jax.nn.sigmoid(self.log_alpha - self.log_beta)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        z = self.as_dirichlet.rsample(key, num_samples)[..., 0]
        return jnp.minimum(z, 1 - jnp.finfo(z.dtype).epsneg)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        last = 1 - jnp.finfo(z.dtype).epsneg
        log_z = jnp.stack([log_positive(z), jnp.log1p(-jnp.where(z > last, last, z))], axis=-1)
        log_density = self.as_dirichlet.log_prob_of_logs(log_z)
        return jnp.sum(jnp.where((z < 0) | (z > 1), -jnp.inf, log_density), axis=-1)


@family
class Dirichlet(Reparameterizable):
    """Dirichlet over D parts by the logs of its concentrations `[*batch, D]`; a sample's gradient is implicit. Samples
    are clipped at the smallest normal float, as Gamma's are."""

    log_concentration: Float[Array, "*batch D"]
    factorized = False

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jax.nn.softmax(self.log_concentration, axis=-1)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        z = jax.nn.softmax(log_gamma_draws(key, self.log_concentration, num_samples), axis=-1)
        return jnp.maximum(z, jnp.finfo(z.dtype).tiny)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        """The log-density of z, whose parts sum to 1. The rounding of that sum does not count. It is -inf if a part is
        negative."""
        return jnp.where(jnp.any(z < 0, axis=-1), -jnp.inf, self.log_prob_of_logs(log_positive(z)))

    def log_prob_of_logs(self, log_z: Vectors) -> Float[Array, "*#samples"]:
        """The log-density of z by log z."""
        log_a = self.log_concentration
        # The kernels are those of Gamma(a) for (sum a) z: they differ by a multiple of sum z, which is 1.
        kernels = gamma_kernel(log_a, -jax.nn.log_softmax(log_a, axis=-1), log_z)
        peak = jnp.sum(_log_peak(log_a), axis=-1) - _log_peak(jax.nn.logsumexp(log_a, axis=-1))
        return peak + jnp.sum(kernels, axis=-1)


def _log_peak(log_a: Numbers) -> Float[Array, "*#shape"]:
    """a log a - a - log Gamma(a): the log-density of log z at its mode, for z ~ Gamma(a, 1)."""
    return 0.5 * log_a - HALF_LOG_2PI - stirling_error(log_a)
