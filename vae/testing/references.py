"""Densities and sets of values that are fitted to a distribution's samples, for `certify_distribution`.

If p0 is a density and q is normalized, E_q[p0(z) / q(z)] = 1, as long as q is positive where p0 is. Here p0 is a
mixture of bumps around some samples, each of them 0 outside of an ellipsoid, so that p0 / q is bounded whatever the
tails of q are. For a discrete q, p0 is uniform on the values that hold half of the samples.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# z [*batch, d] -> y [*batch, n] in all of R^n, and log |det dy/dz| [*batch].
Support = Callable[[Array], tuple[Array, Array]]

# The number of bumps, and the largest number of values of a discrete distribution.
SIZE = 64
# The covariance of a bump, relative to that of the samples.
BUMP = 0.5
# A bump is (1 - r^2)^POWER.
POWER = 2
# Samples outside of these quantiles are moved there before the bumps are fitted.
QUANTILES = (0.05, 0.95)

SUPPORTS: dict[str, Support] = {
    "real": lambda z: (z, 0.0),
    "positive": lambda z: (jnp.log(z), -jnp.sum(jnp.log(z), axis=-1)),
    "unit": lambda z: (jnp.log(z) - jnp.log1p(-z), -jnp.sum(jnp.log(z) + jnp.log1p(-z), axis=-1)),
    # Densities on the simplex are those of all coordinates but the last.
    "simplex": lambda z: (jnp.log(z[..., :-1]) - jnp.log(z[..., -1:]), -jnp.sum(jnp.log(z), axis=-1)),
}


def log_reference(support: str | Support, pilot: Float[Array, "P *batch d"]) -> Callable[[Array], Array]:
    """The function z `[*batch, d]` -> log p0(z) `[*batch]`, fitted to samples of a pilot.

    Raises:
      ValueError: if there is no such support.
    """
    if support == "discrete":
        return _uniform_on(pilot)
    if callable(support):
        to_real = support
    elif support == "sphere":
        to_real = _stereographic(jnp.mean(pilot, axis=0))
    elif support in SUPPORTS:
        to_real = SUPPORTS[support]
    else:
        names = ", ".join([*SUPPORTS, "sphere", "discrete"])
        raise ValueError(f"there is no support {support!r}; choose one of {names}, or give a function")
    y = jax.vmap(to_real)(pilot)[0]  # [P, *batch, n]
    y = jnp.clip(y, *jnp.quantile(y, jnp.array(QUANTILES), axis=0))
    centred = y - jnp.mean(y, axis=0)
    covariance = jnp.einsum("p...i,p...j->...ij", centred, centred) / len(y)
    n = y.shape[-1]
    scale = jnp.linalg.cholesky(BUMP * (n + 2 * POWER + 2) * covariance)  # of the ellipsoid
    log_volume = n / 2 * math.log(math.pi) + math.lgamma(POWER + 1) - math.lgamma(POWER + 1 + n / 2)
    log_volume += jnp.sum(jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1)), axis=-1)

    inverse = jnp.linalg.inv(scale)

    def log_density(z):
        y_z, log_det = to_real(z)
        away = jnp.einsum("...ij,p...j->p...i", inverse, y_z - y[:SIZE])  # [SIZE, *batch, n]
        square = jnp.sum(jnp.square(away), axis=-1)
        density = jnp.mean(jnp.where(square < 1, 1 - square, 0.0) ** POWER, axis=0)
        # 0 also where y is infinite, as that of the point from which a sphere is projected
        return jnp.where(density > 0, jnp.log(density) - log_volume + log_det, -jnp.inf)

    return log_density


def _stereographic(mean: Float[Array, "*batch d"]) -> Support:
    """The projection of the sphere from the point opposite to the mean direction. Densities are per unit of area."""
    d = mean.shape[-1]
    columns = jnp.concatenate([mean[..., None], jnp.broadcast_to(jnp.eye(d), (*mean.shape, d))], axis=-1)
    basis = jnp.linalg.qr(columns)[0]  # the first column is the mean direction or its opposite
    direction = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

    def project(z):
        # 1 + z . direction, which near the point opposite to it would be rounding
        height = jnp.sum(jnp.square(z + direction), axis=-1, keepdims=True) / 2
        y = jnp.einsum("...d,...dn->...n", z, basis[..., 1:]) / height
        return y, (d - 1) * jnp.log((1 + jnp.sum(jnp.square(y), axis=-1)) / 2)

    return project


def _uniform_on(pilot: Float[Array, "P *batch d"]) -> Callable[[Array], Array]:
    """The uniform distribution on the most frequent values, which hold half of the samples; at most SIZE values."""
    *batch, d = pilot.shape[1:]
    columns = np.asarray(pilot).reshape(len(pilot), -1, d)
    values = np.full((SIZE, columns.shape[1], d), np.nan, pilot.dtype)  # NaN equals nothing
    for b in range(columns.shape[1]):
        found, counts = np.unique(columns[:, b], axis=0, return_counts=True)
        order = np.argsort(-counts)
        number = min(SIZE, 1 + int(np.searchsorted(np.cumsum(counts[order]), len(pilot) / 2)))
        values[:number, b] = found[order[:number]]
    values = values.reshape(SIZE, *batch, d)
    log_number = np.log(np.sum(~np.isnan(values[..., 0]), axis=0))
    return lambda z: jnp.where(jnp.any(jnp.all(z == values, axis=-1), axis=0), -log_number, -jnp.inf)
