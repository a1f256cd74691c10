"""Densities that are fitted to a distribution's samples, for `certify_distribution`.

If p0 is a density and q is normalized, E_q[p0 / (p0 + q)] = E_p0[q / (p0 + q)] (Bennett 1976). Both sides are means of
numbers between 0 and 1, so that they have normal errors whatever the shape of q is. If the density that is called q is
c times the true one, the ratio of the two sides is nearly 1 / c. Here p0 is a mixture of bumps around some samples,
each of them 0 outside of an ellipsoid. For a discrete q, p0 is uniform on the values that hold half of the samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# z [*batch, d] -> y [*batch, n] in all of R^n, and log |det dy/dz| [*batch]; and its inverse, y -> z.
Support = tuple[Callable[[Array], tuple[Array, Array]], Callable[[Array], Array]]

# The number of bumps, and the largest number of values of a discrete distribution.
SIZE = 64
# The covariance of a bump, relative to that of the samples that are nearest to its centre, and the share of these.
BUMP = 0.5
NEAREST = 0.25
# A bump is (1 - r^2)^POWER.
POWER = 2
# Samples outside of these quantiles are moved there before the bumps are fitted.
QUANTILES = (0.05, 0.95)
# Samples are in the support if its maps return them up to this error.
TOLERANCE = 1e-3

# Coordinates of the simplex that are rounded to 0 do not make others infinite.
_log = lambda z: jnp.log(jnp.maximum(z, jnp.finfo(jnp.float32).tiny))

SUPPORTS: dict[str, Support] = {
    "real": (lambda z: (z, 0.0), lambda y: y),
    "positive": (lambda z: (jnp.log(z), -jnp.sum(jnp.log(z), axis=-1)), jnp.exp),
    "unit": (
        lambda z: (jnp.log(z) - jnp.log1p(-z), -jnp.sum(jnp.log(z) + jnp.log1p(-z), axis=-1)),
        jax.nn.sigmoid,
    ),
    # Densities on the simplex are those of all coordinates but the last.
    "simplex": (
        lambda z: (_log(z)[..., :-1] - _log(z)[..., -1:], -jnp.sum(_log(z), axis=-1)),
        lambda y: jax.nn.softmax(jnp.concatenate([y, jnp.zeros_like(y[..., :1])], axis=-1)),
    ),
}


class Reference(NamedTuple):
    """The density p0: a function z `[*batch, d]` -> log p0(z) `[*batch]`, and one from a generator
    and a number N to samples z `[N, *batch, d]`."""

    log_prob: Callable[[Array], Array]
    sample: Callable[[np.random.Generator, int], Array]


def fit_reference(support: str | Support, pilot: Float[Array, "P *batch d"]) -> Reference:
    """The density p0 that is fitted to samples of a pilot.

    Raises:
      ValueError: if there is no such support, or if samples are outside of it.
    """
    if support == "discrete":
        return _uniform_on(pilot)
    if support == "sphere":
        to_real, inverse = _stereographic(jnp.mean(pilot, axis=0))
    elif isinstance(support, tuple):
        to_real, inverse = support
    elif support in SUPPORTS:
        to_real, inverse = SUPPORTS[support]
    else:
        names = ", ".join([*SUPPORTS, "sphere", "discrete"])
        raise ValueError(f"there is no support {support!r}; choose one of {names}, or give two functions")
    y = np.asarray(jax.vmap(to_real)(pilot)[0])  # [P, *batch, n]
    near = np.isclose(jax.vmap(inverse)(y), pilot, rtol=TOLERANCE, atol=TOLERANCE)
    if outside := np.sum(~np.all(near, axis=-1)):
        name = repr(support) if isinstance(support, str) else "that is given"
        raise ValueError(
            f"{outside} of {pilot[..., 0].size} samples are not in the support {name}; name the support of the "
            f"distribution"
        )
    y = np.clip(y, *np.quantile(y, QUANTILES, axis=0))
    *batch, n = y.shape[1:]
    centres = y[:SIZE]
    columns = np.moveaxis(y.reshape(len(y), -1, n), 1, 0)
    covariance = np.stack([_local_covariances(column) for column in columns], axis=1).reshape(SIZE, *batch, n, n)
    scale = np.linalg.cholesky(BUMP * (n + 2 * POWER + 2) * covariance)  # of the ellipsoids
    inverse_scale = np.float32(np.linalg.inv(scale))
    log_volume = n / 2 * math.log(math.pi) + math.lgamma(POWER + 1) - math.lgamma(POWER + 1 + n / 2)
    log_volume += np.sum(np.log(np.diagonal(scale, axis1=-2, axis2=-1)), axis=-1)
    height = np.float32(np.exp(-log_volume))

    def log_prob(z):
        y_z, log_det = to_real(z)
        away = jnp.einsum("p...ij,p...j->p...i", inverse_scale, y_z - np.float32(centres))
        square = jnp.sum(jnp.square(away), axis=-1)  # [SIZE, *batch]
        density = jnp.mean(height * jnp.where(square < 1, 1 - square, 0.0) ** POWER, axis=0)
        # 0 also where y is infinite, as that of the point from which a sphere is projected
        return jnp.where(density > 0, jnp.log(density) + log_det, -jnp.inf)

    def sample(rng, number):
        bump = rng.integers(SIZE, size=number)
        # Some coordinates of a uniform direction in n + 2 POWER + 2 dimensions have the density (1 - r^2)^POWER.
        direction = rng.normal(size=(number, *batch, n + 2 * POWER + 2))
        away = (direction / np.linalg.norm(direction, axis=-1, keepdims=True))[..., :n]
        return jax.vmap(inverse)(np.float32(centres[bump] + np.einsum("...ij,...j->...i", scale[bump], away)))

    return Reference(log_prob, sample)


def _local_covariances(y: Float[np.ndarray, "P n"]) -> Float[np.ndarray, "SIZE n n"]:
    """The covariances of the samples that are nearest to each of the first ones."""
    centred = y - np.mean(y, axis=0)
    white = np.linalg.solve(np.linalg.cholesky(centred.T @ centred / len(y)), centred.T).T
    away = np.sum(np.square(white - white[:SIZE, None]), axis=-1)
    number = int(NEAREST * len(y))
    nearest = y[np.argpartition(away, number, axis=1)[:, :number]]  # [SIZE, number, n]
    nearest = nearest - np.mean(nearest, axis=1, keepdims=True)
    return np.swapaxes(nearest, 1, 2) @ nearest / number


def _stereographic(mean: Float[Array, "*batch d"]) -> Support:
    """The projection of the sphere from the point opposite to the mean direction. Densities are per unit of area."""
    d = mean.shape[-1]
    columns = jnp.concatenate([mean[..., None], jnp.broadcast_to(jnp.eye(d), (*mean.shape, d))], axis=-1)
    basis = jnp.linalg.qr(columns)[0]  # the first column is the mean direction or its opposite
    direction = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

    def to_real(z):
        # 1 + z . direction, which near the point opposite to it would be rounding
        height = jnp.sum(jnp.square(z + direction), axis=-1, keepdims=True) / 2
        y = jnp.einsum("...d,...dn->...n", z, basis[..., 1:]) / height
        return y, (d - 1) * jnp.log((1 + jnp.sum(jnp.square(y), axis=-1)) / 2)

    def inverse(y):
        square = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        return (2 * jnp.einsum("...n,...dn->...d", y, basis[..., 1:]) + (1 - square) * direction) / (1 + square)

    return to_real, inverse


def _uniform_on(pilot: Float[Array, "P *batch d"]) -> Reference:
    """The uniform distribution on the most frequent values, which hold half of the samples; at most SIZE values."""
    *batch, d = pilot.shape[1:]
    columns = np.asarray(pilot, np.float32).reshape(len(pilot), -1, d)
    values = np.full((SIZE, columns.shape[1], d), np.nan, np.float32)  # NaN equals nothing
    for b in range(columns.shape[1]):
        found, counts = np.unique(columns[:, b], axis=0, return_counts=True)
        order = np.argsort(-counts)
        number = min(SIZE, 1 + int(np.searchsorted(np.cumsum(counts[order]), len(pilot) / 2)))
        values[:number, b] = found[order[:number]]
    values = values.reshape(SIZE, *batch, d)
    number = np.sum(~np.isnan(values[..., 0]), axis=0)
    log_prob = lambda z: jnp.where(jnp.any(jnp.all(z == values, axis=-1), axis=0), -np.log(number), -jnp.inf)

    def sample(rng, draws):
        index = rng.integers(number, size=(draws, *batch))
        return np.take_along_axis(values, index[..., None], axis=0)

    return Reference(log_prob, sample)
