"""Families with z = mean + scale * eps: Normal, Laplace, Student t and the full-covariance Gaussian."""

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import LocationScale, Vectors, family

_LOG_2PI = 1.8378770664093453


@family
class Normal(LocationScale):
    """Diagonal Gaussian by mean and log-variance, both `[*batch, D]`: the two outputs of a VAE's encoder."""

    mean: Float[Array, "*batch D"]
    log_var: Float[Array, "*batch D"]
    noise = staticmethod(jax.random.normal)

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(0.5 * self.log_var)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        # exp(-log_var / 2) is multiplied before squaring, because the variance would overflow at half the exponent.
        standardized = (z - self.mean) * jnp.exp(-0.5 * self.log_var)
        return -0.5 * jnp.sum(jnp.square(standardized) + self.log_var + _LOG_2PI, axis=-1)


@family
class Laplace(LocationScale):
    """Factorized Laplace by location and log of the scale b (variance 2 b^2), both `[*batch, D]`."""

    mean: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    noise = staticmethod(jax.random.laplace)

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_scale)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(stats.laplace.logpdf(z, self.mean, self.scale), axis=-1)


@family
class StudentT(LocationScale):
    """Factorized Student t by location, log-scale and log of the degrees of freedom, all `[*batch, D]`.

    The degrees of freedom get their gradient by implicit differentiation of the Gamma sampler inside `jax.random.t`
    (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498).
    """

    mean: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    log_df: Float[Array, "*batch D"]

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_scale)

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
        return jax.random.t(key, jnp.exp(self.log_df), shape, dtype)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(stats.t.logpdf(z, jnp.exp(self.log_df), self.mean, self.scale), axis=-1)


@family
class MultivariateNormal(LocationScale):
    """Full-covariance Gaussian: mean `[*batch, D]` and lower Cholesky factor `cholesky [*batch, D, D]`."""

    mean: Float[Array, "*batch D"]
    cholesky: Float[Array, "*batch D D"]
    noise = staticmethod(jax.random.normal)

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """z = mean + L eps, for standard normal eps `[K, *batch, D]`."""
        # Accelerators would round the factor here; the samples would then follow a different density.
        precision = jax.lax.Precision.HIGHEST
        return self.mean + jnp.einsum("...ij,...j->...i", self.cholesky, eps, precision=precision)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        centred = (z - self.mean)[..., None]
        factor = jnp.broadcast_to(self.cholesky, (*centred.shape[:-2], *self.cholesky.shape[-2:]))
        standardized = jax.lax.linalg.triangular_solve(factor, centred, left_side=True, lower=True)[..., 0]
        return -0.5 * jnp.sum(jnp.square(standardized) + _LOG_2PI, axis=-1) - log_det(self)


def log_det(q: MultivariateNormal) -> Float[Array, "*batch"]:
    """Log of the determinant of the Cholesky factor."""
    return jnp.sum(jnp.log(jnp.diagonal(q.cholesky, axis1=-2, axis2=-1)), axis=-1)
