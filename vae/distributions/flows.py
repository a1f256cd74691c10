"""Normalizing flows: z = location + scale * T(eps), where eps is standard normal noise and T is invertible.

`Flow` is the distribution. The transformations T are linen modules, each with `__call__(eps, context)` and
`inverse(y, context)`, which both return the result and the log of the absolute determinant of T's Jacobian at eps:

  Coupling        moves one half of the coordinates, given the other half (Dinh, Sohl-Dickstein & Bengio 2016,
                  arXiv:1605.08803); with `Spline` it is a neural spline flow (Durkan et al. 2019, arXiv:1906.04032)
  Autoregressive  moves each coordinate, given those before (inverse autoregressive flow, Kingma et al. 2016,
                  arXiv:1606.04934); the inverse takes D steps
  Planar          adds u tanh(w eps + b) (Rezende & Mohamed 2015, arXiv:1505.05770); it has no inverse here

T works on standardized noise. The conditioning networks therefore see numbers of order 1, however narrow q(z|x) is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Reparameterizable, Vectors, family
from vae.distributions.special import HALF_LOG_2PI

Coordinates = Float[Array | np.ndarray, "*#samples D"]
Context = Float[Array | np.ndarray, "*batch C"]
LogDet = Float[Array, "*#samples"]
# Accelerators would round the weights in the products here; the inverse would then not find the noise again.
_HIGHEST = jax.lax.Precision.HIGHEST


@family
class Flow(Reparameterizable):
    """z = location + scale * T(eps), by the location and log-scale and context of each datum, and by shared weights.

    The encoder computes location, log-scale and context for each datum, so they have the axes of the batch. The weights
    of T are the same for all data, so they have none. All four are leaves of the pytree. Gradients therefore reach the
    weights through `rsample` and through `log_prob`, and `stop_gradient(q)` holds all of them but leaves the path
    through z open, which sticking the landing and DReG need. Code that slices or maps over the batch must leave
    `weights` whole: `jax.vmap` of a function that makes q does so by itself.

    Attributes:
      location: `[*batch, D]`.
      log_scale: `[*batch, D]`.
      context: `[*batch, C]`.
      weights: the variables of `transform`, without axes of the batch.
      transform: the linen module T, unbound.
    """

    location: Float[Array, "*batch D"]
    log_scale: Float[Array, "*batch D"]
    context: Float[Array, "*batch C"]
    weights: Any
    transform: nn.Module = field(metadata={"static": True})
    noise = staticmethod(jax.random.normal)
    factorized = False

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.location.shape

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """The sample as a function of the noise, through which gradients reach all parameters."""
        return self.from_noise_and_log_prob(eps)[0]

    def from_noise_and_log_prob(self, eps: Vectors) -> tuple[Float[Array, "*#samples D"], Float[Array, "*#samples"]]:
        """The sample and log q of it, by one pass through T and without its inverse."""
        eps = jnp.broadcast_to(eps, jnp.broadcast_shapes(eps.shape, self.noise_shape))
        y, log_det = self.transform.apply(self.weights, eps, self.context)
        return self.location + jnp.exp(self.log_scale) * y, self._log_prob(eps, log_det)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self.rsample_and_log_prob(key, num_samples)[0]

    def rsample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "{num_samples} *batch D"], Float[Array, "{num_samples} *batch"]]:
        return self.from_noise_and_log_prob(self.noise(key, (num_samples, *self.noise_shape), self.location.dtype))

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        """log q(z), by the inverse of T.

        Raises:
          NotImplementedError: if T has no inverse.
        """
        y = (z - self.location) * jnp.exp(-self.log_scale)
        return self._log_prob(*self.transform.apply(self.weights, y, self.context, method="inverse"))

    def _log_prob(self, eps: Vectors, log_det: LogDet) -> Float[Array, "*#samples"]:
        return -jnp.sum(0.5 * jnp.square(eps) + HALF_LOG_2PI + self.log_scale, axis=-1) - log_det


# --- What is done to a coordinate


@dataclass(frozen=True)
class Affine:
    """y = shift + exp(s) x, with |s| below 2, so that many layers neither explode nor vanish."""

    numbers: ClassVar[int] = 2

    def forward(self, x: Array, numbers: Array) -> tuple[Array, Array]:
        """y and log dy/dx at x, both of the shape of x; the last axis of `numbers` has the parameters."""
        log_slope = self._log_slope(numbers)
        return numbers[..., 0] + jnp.exp(log_slope) * x, log_slope

    def backward(self, y: Array, numbers: Array) -> tuple[Array, Array]:
        """The x of y, and log dy/dx at x."""
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
        """y and log dy/dx at x, both of the shape of x; the last axis of `numbers` has the parameters."""
        x0, y0, width, height, slope0, slope1 = self._piece(x, numbers, by_height=False)
        t = (jnp.clip(x, -self.reach, self.reach) - x0) / width
        y = y0 + height * t * (height / width * t + slope0 * (1 - t)) / self._denominator(
            t, width, height, slope0, slope1
        )
        return self._inside(x, y, self._log_slope(t, width, height, slope0, slope1))

    def backward(self, y: Array, numbers: Array) -> tuple[Array, Array]:
        """The x of y, and log dy/dx at x."""
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


# --- Transformations


class Conditioner(nn.Module):
    """A network with one hidden layer of tanh units, from x `[*samples, I]` and the context to `[*samples, O, P]`.

    The outputs are 0 before training, where `Affine` and `Spline` are the identity.

    Attributes:
      hidden: number of hidden units.
      outputs: O.
      numbers: P, the parameters of each output.
      autoregressive: whether output i reads only the inputs before i (Germain et al. 2015, arXiv:1502.03509).
    """

    hidden: int
    outputs: int
    numbers: int
    autoregressive: bool = False

    @nn.compact
    def __call__(self, x: Coordinates, context: Context) -> Float[Array, "*#samples O P"]:
        inputs = x.shape[-1]
        rows = inputs + context.shape[-1]
        first = self.param("first", nn.initializers.lecun_normal(), (rows, self.hidden), jnp.float32)
        bias = self.param("first_bias", nn.initializers.zeros, (self.hidden,), jnp.float32)
        last = self.param("last", nn.initializers.zeros, (self.hidden, self.outputs, self.numbers), jnp.float32)
        last_bias = self.param("last_bias", nn.initializers.zeros, (self.outputs, self.numbers), jnp.float32)
        from_x, from_context = first[:inputs], first[inputs:]
        if self.autoregressive:
            degree = np.arange(self.hidden) * inputs // self.hidden  # a hidden unit reads the inputs before its degree
            from_x = jnp.where(np.arange(inputs)[:, None] < degree, from_x, 0.0)
            last = jnp.where((degree[:, None] <= np.arange(self.outputs))[..., None], last, 0.0)
        of_datum = jnp.matmul(context, from_context, precision=_HIGHEST) + bias  # once for all samples of a datum
        h = jnp.tanh(jnp.matmul(x, from_x, precision=_HIGHEST) + of_datum)
        return jnp.tensordot(h, last, axes=1, precision=_HIGHEST) + last_bias


class Coupling(nn.Module):
    """The first D // 2 coordinates stay, and the others are moved by `bend`, given those that stay."""

    dim: int
    hidden: int
    bend: Affine | Spline = Affine()

    def setup(self):
        self.conditioner = Conditioner(self.hidden, self.dim - self.dim // 2, self.bend.numbers)

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._move(self.bend.forward, x, context)

    def inverse(self, y: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._move(self.bend.backward, y, context)

    def _move(self, bend: Callable, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        stay, move = jnp.split(x, [self.dim // 2], axis=-1)
        moved, log_slope = bend(move, self.conditioner(stay, context))
        return jnp.concatenate([stay, moved], axis=-1), jnp.sum(log_slope, axis=-1)


class Autoregressive(nn.Module):
    """Each coordinate is moved by `bend`, given the coordinates of x before it."""

    dim: int
    hidden: int
    bend: Affine | Spline = Affine()

    def setup(self):
        self.conditioner = Conditioner(self.hidden, self.dim, self.bend.numbers, autoregressive=True)

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        y, log_slope = self.bend.forward(x, self.conditioner(x, context))
        return y, jnp.sum(log_slope, axis=-1)

    def inverse(self, y: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        """Each step finds one more coordinate of x: the one whose predecessors are already right."""
        conditioner, weights = self.conditioner.unbind()
        step = lambda x, _: self.bend.backward(y, conditioner.apply(weights, x, context))
        x, log_slopes = jax.lax.scan(step, jnp.zeros_like(y), length=self.dim)
        return x, jnp.sum(log_slopes[-1], axis=-1)


class Layers(nn.Module):
    """Transformations one after the other. Every second one sees the coordinates in the reverse order."""

    layers: tuple[nn.Module, ...]

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._apply(range(len(self.layers)), "__call__", x, context)

    def inverse(self, y: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._apply(reversed(range(len(self.layers))), "inverse", y, context)

    def _apply(self, indices, method, x: Coordinates, context: Context):
        total = jnp.zeros((), x.dtype)
        for index in indices:
            order = slice(None, None, -1 if index % 2 else 1)
            x, log_det = getattr(self.layers[index], method)(x[..., order], context)
            x, total = x[..., order], total + log_det
        return x, total


class Planar(nn.Module):
    """x + u tanh(w x + b) for each layer; the context has the numbers u, w and b of all layers, 2 D + 1 for each.

    u is moved along w until w u is above -1, where the map is invertible; unlike in the paper, w u = 0 stays 0.
    """

    layers: int

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        dim, log_det = x.shape[-1], jnp.zeros((), x.dtype)
        for numbers in jnp.split(context, self.layers, axis=-1):
            u, w, b = numbers[..., :dim], numbers[..., dim : 2 * dim], numbers[..., -1]
            product = jnp.sum(w * u, axis=-1)
            wanted = jax.nn.softplus(product + np.log(np.e - 1).astype(x.dtype)) - 1
            u = u + ((wanted - product) / (jnp.sum(jnp.square(w), axis=-1) + 1e-6))[..., None] * w
            h = jnp.tanh(jnp.sum(w * x, axis=-1) + b)
            log_det = log_det + jnp.log1p(jnp.sum(w * u, axis=-1) * (1 - jnp.square(h)))
            x = x + u * h[..., None]
        return x, log_det

    def inverse(self, y: Coordinates, context: Context):
        raise NotImplementedError(
            "planar flows cannot evaluate log q(z) at a given z, because their inverse has no closed form; choose "
            "estimator=reparam, reparam_antithetic or reparam_rqmc, which draw z and log q(z) together, or "
            "posterior=coupling, spline_coupling or iaf"
        )
