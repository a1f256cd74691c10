"""Increasing functions of one coordinate, which the layers of flows apply to each coordinate: `Affine` and `Spline`.

`forward(x, numbers)` returns y and log dy/dx, and `backward(y, numbers)` the x of y and log dy/dx at x, all of the
shape of x. The last axis of `numbers` holds the function's parameters. Where they are 0, the function is the identity.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Affine:
    """y = shift + exp(s) x, with |s| below 2, so that many layers neither explode nor vanish."""

    numbers: ClassVar[int] = 2

    def forward(self, x: Array, numbers: Array) -> tuple[Array, Array]:
        log_slope = self._log_slope(numbers)
        return numbers[..., 0] + jnp.exp(log_slope) * x, log_slope

    def backward(self, y: Array, numbers: Array) -> tuple[Array, Array]:
        log_slope = self._log_slope(numbers)
        return (y - numbers[..., 0]) * jnp.exp(-log_slope), log_slope

    def _log_slope(self, numbers: Array) -> Array:
        return 2 * jnp.tanh(numbers[..., 1] / 2)


@dataclass(frozen=True)
class Spline:
    """A monotone rational-quadratic spline with `bins` pieces on [-5, 5], and the identity outside."""

    bins: int = 8
    reach: ClassVar[float] = 5.0
    least: ClassVar[float] = 1e-3  # the smallest slope at a knot, and width and height of a piece of the unit interval

    @property
    def numbers(self) -> int:
        return 3 * self.bins - 1

    def forward(self, x: Array, numbers: Array) -> tuple[Array, Array]:
        x0, y0, width, height, slope0, slope1 = self._piece(x, numbers, by_height=False)
        t = (jnp.clip(x, -self.reach, self.reach) - x0) / width
        y = y0 + height * t * (height / width * t + slope0 * (1 - t)) / self._denominator(
            t, width, height, slope0, slope1
        )
        return self._inside(x, y, self._log_slope(t, width, height, slope0, slope1))

    def backward(self, y: Array, numbers: Array) -> tuple[Array, Array]:
        x0, y0, width, height, slope0, slope1 = self._piece(y, numbers, by_height=True)
        rise = jnp.clip(y, -self.reach, self.reach) - y0
        mean_slope = height / width
        bend = rise * (slope0 + slope1 - 2 * mean_slope)
        a = height * (mean_slope - slope0) + bend
        b = height * slope0 - bend
        t = 2 * mean_slope * rise / (b + jnp.sqrt(jnp.square(b) + 4 * a * mean_slope * rise))
        return self._inside(y, x0 + width * t, self._log_slope(t, width, height, slope0, slope1))

    def _piece(self, x: Array, numbers: Array, by_height: bool) -> tuple[Array, ...]:
        """The piece of x (of y if `by_height`): left end, lower end, width, height, and the slopes at both ends."""
        widths, heights, slopes = jnp.split(numbers, [self.bins, 2 * self.bins], axis=-1)
        widths, heights = (2 * self.reach * self._shares(raw) for raw in (widths, heights))
        # A raw slope of 0 is a slope of 1; so are the slopes at the two ends.
        slopes = self.least + jax.nn.softplus(slopes + np.log(np.expm1(1 - self.least)).astype(numbers.dtype))
        one = jnp.ones_like(slopes[..., :1])
        slopes = jnp.concatenate([one, slopes, one], axis=-1)
        ends = [jnp.cumsum(sizes, axis=-1) - self.reach for sizes in (widths, heights)]
        starts = [end - sizes for end, sizes in zip(ends, (widths, heights), strict=True)]
        index = jnp.sum(x[..., None] >= ends[by_height][..., :-1], axis=-1)
        chosen = jax.nn.one_hot(index, self.bins, dtype=numbers.dtype)
        pick = lambda table: jnp.sum(chosen * table, axis=-1)  # the gradient of a gather is slow
        return tuple(map(pick, (*starts, widths, heights, slopes[..., :-1], slopes[..., 1:])))

    def _shares(self, raw: Array) -> Array:
        return self.least + (1 - self.least * self.bins) * jax.nn.softmax(raw, axis=-1)

    def _denominator(self, t: Array, width: Array, height: Array, slope0: Array, slope1: Array) -> Array:
        mean_slope = height / width
        return mean_slope + (slope0 + slope1 - 2 * mean_slope) * t * (1 - t)

    def _log_slope(self, t: Array, width: Array, height: Array, slope0: Array, slope1: Array) -> Array:
        mean_slope = height / width
        numerator = slope1 * t**2 + 2 * mean_slope * t * (1 - t) + slope0 * (1 - t) ** 2
        denominator = self._denominator(t, width, height, slope0, slope1)
        return 2 * jnp.log(mean_slope) + jnp.log(numerator) - 2 * jnp.log(denominator)

    def _inside(self, x: Array, y: Array, log_slope: Array) -> tuple[Array, Array]:
        inside = jnp.abs(x) < self.reach
        return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0.0)
