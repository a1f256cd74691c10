"""Distributions on the sphere |z| = 1 of D dimensions: the uniform one, and the base of those around a mean direction.

Densities are per unit of surface area. A sample z has D coordinates, and D is at least 2.
"""

import math
from dataclasses import field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Reparameterizable, Vectors, family


@family
class UniformOnSphere:
    """The uniform distribution, without parameters and of batch_shape `[]`."""

    dimensions: int = field(metadata={"static": True})
    factorized = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.dimensions,)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} D"]:
        return unit(jax.random.normal(key, (num_samples, self.dimensions), jnp.float32))

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.full(z.shape[:-1], -log_area(self.dimensions), jnp.result_type(z))


class Spherical(Reparameterizable):
    """Base of the families around a mean direction, which have the fields `location` and `log_concentration`.

    A subclass has `log_ratio(half_square)`, the log of the ratio of the density to that of the uniform distribution,
    for half_square = |z - direction|^2 / 4, and `log_tangent(key, num_samples)`, samples of log tan(angle / 2), for the
    angle between z and the direction. Both are `[K, *batch, 1]`.
    """

    factorized = False

    def check(self) -> None:
        if self.location.shape[-1] < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 dimensions, got {self.location.shape[-1]}")

    @property
    def direction(self) -> Float[Array, "*batch D"]:
        """The mean direction, location / |location|."""
        return unit(self.location)

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return self.mean_length * self.direction

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        key_angle, key_tangent = jax.random.split(key)
        *batch, dimensions = self.location.shape
        log_tangent = self.log_tangent(key_angle, num_samples)
        around = unit(jax.random.normal(key_tangent, (num_samples, *batch, dimensions - 1), self.location.dtype))
        sine = jnp.exp(math.log(2) - jnp.logaddexp(log_tangent, -log_tangent))
        return _turn(jnp.concatenate([-jnp.tanh(log_tangent), sine * around], axis=-1), self.direction)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        half_square = jnp.sum(jnp.square(z - self.direction), axis=-1, keepdims=True) / 4
        return self.log_ratio(half_square)[..., 0] - log_area(self.location.shape[-1])


def log_area(dimensions: int) -> float:
    """Log of the area of the unit sphere in this number of dimensions."""
    return math.log(2) + dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2)


def unit(x: Vectors) -> Float[Array, "*#samples D"]:
    """x / |x|, and the first axis where x is 0."""
    axis = jnp.eye(1, x.shape[-1], dtype=x.dtype)[0]
    x = jnp.where(jnp.sum(jnp.square(x), axis=-1, keepdims=True) < 1e-30, axis, x)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _turn(y: Vectors, direction: Vectors) -> Float[Array, "*#samples D"]:
    """y, turned by an orthogonal map that takes the first axis to `direction`.

    The map is a Householder reflection, to `direction` or to its opposite, whichever is farther from the axis, so that
    nothing is divided by a small number.
    """
    first = direction[..., :1]
    sign = jnp.where(first < 0, -1.0, 1.0).astype(y.dtype)
    mirror = direction + sign * jnp.eye(1, y.shape[-1], dtype=y.dtype)[0]
    along = jnp.sum(mirror * y, axis=-1, keepdims=True) / (1 + jnp.abs(first))
    return -sign * (y - along * mirror)
