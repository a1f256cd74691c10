"""Families with z = mean + scale * eps: Normal, Laplace, Student t and the full-covariance Gaussian."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Invertible, LocationScale, Vectors, family
from vae.distributions.special import (
    HALF_LOG_2PI,
    Numbers,
    deviance,
    log1p_square,
    log_gamma_draws,
    softplus,
    stirling_error,
    student_deviance,
)

_LOG_2PI = 2 * HALF_LOG_2PI


@family
class Normal(Invertible, LocationScale):
    """Diagonal Gaussian by mean and log-variance, both `[*batch, D]`: the two outputs of a VAE's encoder."""

    mean: Float[Array, "*batch D"]
    log_var: Float[Array, "*batch D"]
    noise = staticmethod(jax.random.normal)

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(0.5 * self.log_var)

    def to_noise(self, z: Vectors) -> Float[Array, "*#samples D"]:
        return (z - self.mean) * jnp.exp(-0.5 * self.log_var)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        # exp(-log_var / 2) is multiplied before squaring, because the variance would overflow at half the exponent.
        return -0.5 * jnp.sum(jnp.square(self.to_noise(z)) + self.log_var + _LOG_2PI, axis=-1)


@family
class Laplace(Invertible, LocationScale):
    """Factorized Laplace by location and log of the scale b (variance 2 b^2), both `[*batch, D]`."""

    mean: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    noise = staticmethod(jax.random.laplace)

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_scale)

    def to_noise(self, z: Vectors) -> Float[Array, "*#samples D"]:
        return (z - self.mean) * jnp.exp(-self.log_scale)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        distance = jnp.abs(z - self.mean) * jnp.exp(-self.log_scale)
        return -jnp.sum(distance + self.log_scale + math.log(2), axis=-1)


@family
class StudentT(LocationScale):
    """Factorized Student t by location, log-scale and log of the degrees of freedom, all `[*batch, D]`.

    The degrees of freedom get their gradient by implicit differentiation of a Gamma sampler (Figurnov, Mohamed & Mnih
    2018, arXiv:1805.08498). The density is accurate for logs of the degrees of freedom from -80 to 80. The noise is
    clipped at about e^40. At fewer than 0.12 degrees of freedom more than a hundredth of the mass is clipped, and a
    Monte Carlo bound is too high.
    """

    mean: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    log_df: Float[Array, "*batch D"]

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_scale)

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
        key_normal, key_gamma = jax.random.split(key)
        log_half_df = self.log_df - math.log(2)
        log_gamma = log_gamma_draws(key_gamma, log_half_df, shape[0])
        stretch = jnp.exp(jnp.minimum(0.5 * (log_half_df - log_gamma), 40.0))
        return jax.random.normal(key_normal, shape, dtype) * stretch

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        t = (z - self.mean) * jnp.exp(-self.log_scale)
        tails = student_deviance(self.log_df, t) + 0.5 * log1p_square(t * jnp.exp(-0.5 * self.log_df))
        return jnp.sum(_log_peak(self.log_df) - self.log_scale - tails, axis=-1)


def _log_peak(log_df: Numbers) -> Float[Array, "*#shape"]:
    """The log-density at the location, for a scale of 1."""
    log_x = log_df - math.log(2)
    step = softplus(-log_df)  # from log x to log(x + 1/2)
    return stirling_error(log_x + step) - stirling_error(log_x) - deviance(log_x, step) - HALF_LOG_2PI


@family
class MultivariateNormal(Invertible, LocationScale):
    """Full-covariance Gaussian: mean `[*batch, D]` and lower Cholesky factor `cholesky [*batch, D, D]`.

    Numbers above the diagonal are ignored. Numbers on the diagonal may be negative, but not zero.
    """

    mean: Float[Array, "*batch D"]
    cholesky: Float[Array, "*batch D D"]
    noise = staticmethod(jax.random.normal)
    factorized = False

    @property
    def factor(self) -> Float[Array, "*batch D D"]:
        """The lower triangle L of `cholesky`; the covariance is L L^T."""
        return jnp.tril(self.cholesky)

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """z = mean + L eps, for standard normal eps `[K, *batch, D]`."""
        # Accelerators would round the factor here; the samples would then follow a different density.
        precision = jax.lax.Precision.HIGHEST
        return self.mean + jnp.einsum("...ij,...j->...i", self.factor, eps, precision=precision)

    def to_noise(self, z: Vectors) -> Float[Array, "*#samples D"]:
        centred = (z - self.mean)[..., None]
        factor = jnp.broadcast_to(self.cholesky, (*centred.shape[:-2], *self.cholesky.shape[-2:]))
        return jax.lax.linalg.triangular_solve(factor, centred, left_side=True, lower=True)[..., 0]

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return -0.5 * jnp.sum(jnp.square(self.to_noise(z)) + _LOG_2PI, axis=-1) - log_det(self)


def log_det(q: MultivariateNormal) -> Float[Array, "*batch"]:
    """Log of the absolute determinant of the Cholesky factor."""
    return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(q.cholesky, axis1=-2, axis2=-1))), axis=-1)
