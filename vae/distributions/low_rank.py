"""The Gaussian whose covariance is a diagonal plus a matrix of low rank."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae.distributions.base import LocationScale, Vectors, family
from vae.distributions.special import HALF_LOG_2PI, Numbers


@family
class LowRankNormal(LocationScale):
    """Gaussian with the covariance diag(exp(log_var)) + F F^T, where the `factor` F is `[*batch, D, R]`.

    A sample takes D + R standard normal numbers z = mean + exp(log_var / 2) eps_1 + F eps_2. The density is that of one
    coordinate after the other, given the coordinates before (a Kalman filter of eps_2), and costs D R^2 operations.

    It is accurate for log-variances from -160 to 160. Where more than R coordinates are narrow, or narrow coordinates
    have rows of F that are parallel up to rounding, it is as inexact as the coordinates of z and the rows of F.
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
        innovations, log_scales = _innovations(self, z)
        squares = jnp.sum(jnp.square(innovations), axis=0)
        return -0.5 * squares - jnp.sum(log_scales, axis=0) - HALF_LOG_2PI * z.shape[-1]


def log_det_covariance(q: LowRankNormal) -> Float[Array, "*batch"]:
    """Log of the determinant of the covariance."""
    return 2 * jnp.sum(_innovations(q, q.mean)[1], axis=0)


def _innovations(q: LowRankNormal, z: Vectors) -> tuple[Float[Array, "D *#samples"], Float[Array, "D *batch"]]:
    """z_i minus its mean given z_1 .. z_(i-1), over its standard deviation given them; and the log of that.

    The covariance of eps_2 given the coordinates so far is L L^T. Rotations of the columns of
    [[exp(log_var_i / 2), F_i L], [0, L]] leave only one number in the first row: the standard deviation of z_i. Below
    it they leave how far z_i moves the mean of eps_2, and the next L. Nothing is squared, so that narrow and wide
    coordinates may meet; a Cholesky factor of 1 + F^T diag(exp(-log_var)) F would need the square of their ratio.
    """
    *batch, _, rank = q.factor.shape
    first = lambda x: jnp.moveaxis(x, -1, 0)
    centred = first(z - q.mean)

    def step(carry, coordinate):
        mean, columns = carry
        row, scale, value = coordinate
        gain = jnp.zeros_like(columns[0])
        rotated = []
        for column in columns:
            cosine, sine, scale = _rotation(scale, jnp.sum(row * column, axis=-1))
            cosine, sine = cosine[..., None], sine[..., None]
            rotated.append(cosine * column - sine * gain)
            gain = cosine * gain + sine * column
        log_scale = jnp.log(scale)
        innovation = (value - jnp.sum(row * mean, axis=-1)) * jnp.exp(-log_scale)
        return (mean + gain * innovation[..., None], tuple(rotated)), (innovation, log_scale)

    mean = jnp.zeros((*centred.shape[1:], rank), centred.dtype)
    columns = tuple(jnp.broadcast_to(axis, (*batch, rank)) for axis in jnp.eye(rank, dtype=q.factor.dtype))
    coordinates = jnp.moveaxis(q.factor, -2, 0), first(jnp.exp(0.5 * q.log_var)), centred
    return jax.lax.scan(step, (mean, columns), coordinates)[1]


@jax.custom_jvp
def _rotation(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Cosine and sine of the angle of the point (x, y), and its distance from 0."""
    distance = jnp.hypot(x, y)
    return x / distance, y / distance, distance


@_rotation.defjvp
def _rotation_jvp(primals, tangents):
    """By the angle: the derivative of a quotient would divide by the square of the distance, which may underflow."""
    cosine, sine, distance = _rotation(*primals)
    turn = (cosine * tangents[1] - sine * tangents[0]) / distance
    return (cosine, sine, distance), (-sine * turn, cosine * turn, cosine * tangents[0] + sine * tangents[1])


def _product(subscripts: str, *arrays: Array | np.ndarray) -> Array:
    # Accelerators would round the factors here; the samples would then follow a different density.
    return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)
