"""The power spherical distribution (De Cao & Aziz 2020, arXiv:2006.04437)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import family
from vae.distributions.implicit import Beta
from vae.distributions.special import Numbers, log_gamma_draws, log_positive, softplus, stirling_error
from vae.distributions.sphere import Spherical


@family
class PowerSpherical(Spherical):
    """The density is proportional to (1 + direction . z)^concentration, with `location` `[*batch, D]` and the log of
    the concentration `[*batch, 1]`.

    (1 + direction . z) / 2 has a Beta distribution, whose samples are differentiated implicitly.
    """

    location: Float[Array, "*batch D"]
    log_concentration: Float[Array, "*batch 1"]

    @property
    def along(self) -> Beta:
        """The distribution of (1 + direction . z) / 2."""
        log_beta = jnp.full_like(self.log_concentration, math.log(self._beta))
        return Beta(jnp.logaddexp(self.log_concentration, log_beta), log_beta)

    @property
    def mean_length(self) -> Float[Array, "*batch 1"]:
        return jax.nn.sigmoid(self.log_concentration - math.log(2 * self._beta))

    def log_tangent(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch 1"]:
        along = self.along
        both = log_gamma_draws(key, jnp.concatenate([along.log_alpha, along.log_beta], axis=-1), num_samples)
        return 0.5 * (both[..., 1:] - both[..., :1])

    def log_ratio(self, half_square: Numbers) -> Float[Array, "..."]:
        # 1 - half_square loses digits near the direction, and log1p loses digits near the opposite direction.
        near = half_square < 0.5
        log_along = jnp.where(
            near, jnp.log1p(-jnp.where(near, half_square, 0.0)), log_positive(jnp.where(near, 1.0, 1 - half_square))
        )
        log_alpha, log_beta = self.along.log_alpha, self.along.log_beta
        normalizer = _log_gamma_step(log_alpha, self._beta) - _log_gamma_step(log_beta, self._beta)
        return jnp.exp(self.log_concentration) * log_along + normalizer

    @property
    def _beta(self) -> float:
        return (self.location.shape[-1] - 1) / 2


def _log_gamma_step(log_a: Numbers, step: float) -> Float[Array, "*#shape"]:
    """log Gamma(a + step) - log Gamma(a)."""
    up = softplus(math.log(step) - log_a)  # from log a to log(a + step)
    log_next = log_a + up
    return (jnp.exp(log_a) - 0.5) * up + step * (log_next - 1) + stirling_error(log_next) - stirling_error(log_a)
