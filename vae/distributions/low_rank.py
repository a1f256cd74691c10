"""The Gaussian whose covariance is a diagonal plus a matrix of low rank."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae.distributions.base import LocationScale, Vectors, family
from vae.distributions.special import HALF_LOG_2PI

# The limits of float32, measured: beyond them a log-density may be wrong by more than 0.05 nats. The first is the least
# pivot of the R x R matrix, in R rounding errors of its largest entry; the second is the rounding error of the longest
# column of V.
LEAST_PIVOT = 64
LARGEST_ERROR = 1e-3


@family
class LowRankNormal(LocationScale):
    """Gaussian with the covariance diag(exp(log_var)) + F F^T, where the `factor` F is `[*batch, D, R]`.

    A sample takes D + R standard normal numbers. The density uses Woodbury's identity and the matrix determinant lemma,
    so it factorizes only an R x R matrix, 1 + V^T V, where V is F divided by the standard deviations of the diagonal
    part. Log-densities and divergences are NaN where rounding could make them wrong by more than 0.05 nats. In float32
    this begins where some rows of V are about 100 times as long as others; with R = 1, where V is longer than 8000.
    """

    mean: Float[Array, "*batch D"]
    log_var: Float[Array, "*batch D"]
    factor: Float[Array, "*batch D R"]
    noise = staticmethod(jax.random.normal)
    factorized = False

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (*self.batch_shape, sum(self.factor.shape[-2:]))

    def from_noise(self, eps: Float[Array | np.ndarray, "*#samples N"]) -> Float[Array, "*#samples D"]:
        """z = mean + exp(log_var / 2) eps_1 + F eps_2, for standard normal eps `[K, *batch, D + R]`."""
        own, shared = jnp.split(eps, [self.mean.shape[-1]], axis=-1)
        return self.mean + jnp.exp(0.5 * self.log_var) * own + _product("...ij,...j->...i", self.factor, shared)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        scaled = _scaled_factor(self)
        standardized = (z - self.mean) * jnp.exp(-0.5 * self.log_var)
        # The mean of eps_2, given z. With it, the quadratic form is a sum of squares, in which nothing cancels.
        projected = _product("...ij,...i->...j", scaled, standardized)
        cholesky = jnp.broadcast_to(_cholesky(scaled), (*projected.shape, projected.shape[-1]))
        shared = jax.scipy.linalg.cho_solve((cholesky, True), projected[..., None])[..., 0]
        own = standardized - _product("...ij,...j->...i", scaled, shared)
        quadratic = jnp.sum(jnp.square(own), axis=-1) + jnp.sum(jnp.square(shared), axis=-1)
        return -0.5 * (quadratic + log_det_covariance(self)) - HALF_LOG_2PI * z.shape[-1]


def log_det_covariance(q: LowRankNormal) -> Float[Array, "*batch"]:
    """Log of the determinant of the covariance."""
    diagonal = jnp.diagonal(_cholesky(_scaled_factor(q)), axis1=-2, axis2=-1)
    return jnp.sum(q.log_var, axis=-1) + 2 * jnp.sum(jnp.log(diagonal), axis=-1)


def _scaled_factor(q: LowRankNormal) -> Float[Array, "*batch D R"]:
    """F divided by the standard deviations of the diagonal part."""
    return q.factor * jnp.exp(-0.5 * q.log_var)[..., None]


def _cholesky(scaled: Float[Array, "*batch D R"]) -> Float[Array, "*batch R R"]:
    """The Cholesky factor of 1 + V^T V, where V is `scaled`; NaN beyond the limits above."""
    matrix = jnp.eye(scaled.shape[-1], dtype=scaled.dtype) + _product("...ij,...ik->...jk", scaled, scaled)
    cholesky = jnp.linalg.cholesky(matrix)
    diagonal = lambda a: jnp.diagonal(a, axis1=-2, axis2=-1)
    least_pivot = jnp.min(jnp.square(diagonal(cholesky)), axis=-1, initial=jnp.inf)
    largest = jnp.max(diagonal(matrix), axis=-1, initial=0.0)
    eps = jnp.finfo(scaled.dtype).eps
    is_sound = least_pivot >= LEAST_PIVOT * scaled.shape[-1] * eps * largest
    is_sound &= jnp.sqrt(largest) * eps <= LARGEST_ERROR
    return jnp.where(is_sound[..., None, None], cholesky, jnp.nan)


def _product(subscripts: str, *arrays: Array | np.ndarray) -> Array:
    # Accelerators would round the factors here; the samples would then follow a different density.
    return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)
