"""Normalizing flows: z = location + scale * T(eps), where eps is standard normal noise and T is invertible.

`Flow` is the distribution. The transformations T are the linen modules `Layers` and `Planar`. Their methods
`__call__(eps, context)` and `inverse(y, context)` return the result and the log of the absolute determinant of T's
Jacobian at eps. `push_score(eps, context, score)` turns the score of the noise, the gradient of its log-density, into
the score of T(eps) (Vaitl et al. 2022, arXiv:2207.08219).

  Coupling        moves one half of the coordinates, given the other half (Dinh, Sohl-Dickstein & Bengio 2016,
                  arXiv:1605.08803); with `Spline` it is a neural spline flow (Durkan et al. 2019, arXiv:1906.04032)
  Autoregressive  moves each coordinate, given those before (inverse autoregressive flow, Kingma et al. 2016,
                  arXiv:1606.04934); the inverse takes D steps
  Planar          adds u tanh(w eps + b) (Rezende & Mohamed 2015, arXiv:1505.05770); it has no inverse here

T works on standardized noise. The conditioning networks therefore see numbers of order 1, however narrow q(z|x) is.
"""

from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Invertible, Reparameterizable, Vectors, family
from vae.distributions.monotone import Affine as Affine
from vae.distributions.monotone import Spline as Spline
from vae.distributions.special import HALF_LOG_2PI

Coordinates = Float[Array | np.ndarray, "*#samples D"]
Context = Float[Array | np.ndarray, "*batch C"]
LogDet = Float[Array, "*#samples"]
Moved = tuple[Float[Array, "*#samples D"], Float[Array, "*#samples D"]]  # coordinates, and logs of the slopes dy_i/dx_i
# Accelerators would round the weights in the products here; the inverse would then not find the noise again.
_HIGHEST = jax.lax.Precision.HIGHEST


@family
class Flow(Invertible, Reparameterizable):
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
    is_real = True

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` can evaluate log q(z) at a given z."""
        return not isinstance(self.transform, Planar)

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

    def rsample_and_density(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "{num_samples} *batch D"], Callable[[Array], Array]]:
        """z, and log q as a function that holds q and is to be called at z, where its derivative is the score of q.

        The score is pushed through T along with the noise, so no inverse is needed (arXiv:2207.08219).
        """
        eps = self.noise(key, (num_samples, *self.noise_shape), self.location.dtype)
        z, log_q = self.from_noise_and_log_prob(eps)
        held = stop_gradient(self)
        score = held.transform.apply(held.weights, eps, held.context, -eps, method="push_score")
        score = stop_gradient(score * jnp.exp(-held.log_scale))
        here = stop_gradient(z)
        return z, lambda z: stop_gradient(log_q) + jnp.sum(score * (z - here), axis=-1)

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        """log q(z), by the inverse of T.

        Raises:
          NotImplementedError: if T has no inverse.
        """
        return self._log_prob(*self._inverse(z))

    def to_noise(self, z: Vectors) -> Float[Array, "*#samples D"]:
        """The noise of z.

        Raises:
          NotImplementedError: if T has no inverse.
        """
        return self._inverse(z)[0]

    def _inverse(self, z: Vectors) -> tuple[Float[Array, "*#samples D"], LogDet]:
        y = (z - self.location) * jnp.exp(-self.log_scale)
        return self.transform.apply(self.weights, y, self.context, method="inverse")

    def _log_prob(self, eps: Vectors, log_det: LogDet) -> Float[Array, "*#samples"]:
        return -jnp.sum(0.5 * jnp.square(eps) + HALF_LOG_2PI + self.log_scale, axis=-1) - log_det


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

    @property
    def depth(self) -> int:
        """The length of the longest chain of coordinates of which each depends on the one before, without the first."""
        return 1

    def setup(self):
        self.conditioner = Conditioner(self.hidden, self.dim - self.dim // 2, self.bend.numbers)

    def __call__(self, x: Coordinates, context: Context) -> Moved:
        return self._move(self.bend.forward, x, context)

    def inverse(self, y: Coordinates, context: Context) -> Moved:
        return self._move(self.bend.backward, y, context)

    def _move(self, bend: Callable, x: Coordinates, context: Context) -> Moved:
        stay, move = jnp.split(x, [self.dim // 2], axis=-1)
        moved, log_slope = bend(move, self.conditioner(stay, context))
        return jnp.concatenate([stay, moved], axis=-1), jnp.concatenate([jnp.zeros_like(stay), log_slope], axis=-1)


class Autoregressive(nn.Module):
    """Each coordinate is moved by `bend`, given the coordinates of x before it."""

    dim: int
    hidden: int
    bend: Affine | Spline = Affine()

    @property
    def depth(self) -> int:
        return self.dim - 1

    def setup(self):
        self.conditioner = Conditioner(self.hidden, self.dim, self.bend.numbers, autoregressive=True)

    def __call__(self, x: Coordinates, context: Context) -> Moved:
        return self.bend.forward(x, self.conditioner(x, context))

    def inverse(self, y: Coordinates, context: Context) -> Moved:
        """Each step finds one more coordinate of x: the one whose predecessors are already right."""
        conditioner, weights = self.conditioner.unbind()
        step = lambda x, _: self.bend.backward(y, conditioner.apply(weights, x, context))
        x, log_slopes = jax.lax.scan(step, jnp.zeros_like(y), length=self.dim)
        return x, log_slopes[-1]


class Layers(nn.Module):
    """Couplings or autoregressive layers in a row. Every second one sees the coordinates in the reverse order."""

    layers: tuple[Coupling | Autoregressive, ...]

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._apply(range(len(self.layers)), "__call__", x, context)

    def inverse(self, y: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        return self._apply(reversed(range(len(self.layers))), "inverse", y, context)

    def push_score(self, x: Coordinates, context: Context, score: Coordinates) -> Float[Array, "*#samples D"]:
        for index in range(len(self.layers)):
            order = slice(None, None, -1 if index % 2 else 1)
            x, score = _push_through(self.layers[index], x[..., order], context, score[..., order])
            x, score = x[..., order], score[..., order]
        return score

    def _apply(self, indices: Iterable[int], method: str, x: Coordinates, context: Context):
        log_det = jnp.zeros((), x.dtype)
        for index in indices:
            order = slice(None, None, -1 if index % 2 else 1)
            x, log_slope = getattr(self.layers[index], method)(x[..., order], context)
            x, log_det = x[..., order], log_det + jnp.sum(log_slope, axis=-1)
        return x, log_det


def _push_through(layer: Coupling | Autoregressive, x: Array, context: Array, score: Array) -> tuple[Array, Array]:
    """y, and the score at y, from the score at x.

    The score s at y solves J^T s = score - grad log |det J|, where J = dy/dx is triangular up to the order of the
    coordinates. Each step makes one more coordinate of s right.
    """
    unbound, weights = layer.unbind()
    (y, log_slope), pull = jax.vjp(lambda x: unbound.apply(weights, x, context), x)
    rest = score - pull((jnp.zeros_like(y), jnp.ones_like(log_slope)))[0]
    step = lambda s, _: (s + (rest - pull((s, jnp.zeros_like(log_slope)))[0]) * jnp.exp(-log_slope), None)
    return y, jax.lax.scan(step, rest * jnp.exp(-log_slope), length=layer.depth)[0]


class Planar(nn.Module):
    """x + u tanh(w x + b) for each layer; the context has the numbers D u, w and b of all layers, 2 D + 1 for each.

    A network's first outputs are of order 1, so the division by D makes the first map nearly the identity. u is moved
    along w until w u is above -1, where the map is invertible; unlike in the paper, w u = 0 stays 0.
    """

    layers: int

    def __call__(self, x: Coordinates, context: Context) -> tuple[Float[Array, "*#samples D"], LogDet]:
        total = jnp.zeros((), x.dtype)
        for numbers in jnp.split(context, self.layers, axis=-1):
            (x, log_det), _ = _planar(x, numbers)
            total = total + log_det
        return x, total

    def push_score(self, x: Coordinates, context: Context, score: Coordinates) -> Float[Array, "*#samples D"]:
        for numbers in jnp.split(context, self.layers, axis=-1):
            (y, log_det), pull, (u, slope) = jax.vjp(lambda x, numbers=numbers: _planar(x, numbers), x, has_aux=True)
            rest = score - pull((jnp.zeros_like(y), jnp.ones_like(log_det)))[0]
            # J = 1 + u slope^T, whose transpose is inverted by the formula of Sherman and Morrison.
            score = rest - slope * (jnp.sum(u * rest, axis=-1) * jnp.exp(-log_det))[..., None]
            x = y
        return score

    def inverse(self, y: Coordinates, context: Context):
        raise NotImplementedError(
            "planar flows cannot evaluate log q(z) at a given z, because their inverse has no closed form; choose an "
            "estimator that draws z and log q(z) together (estimator=reparam, or for one layer also stl, dreg, "
            "reparam_antithetic or reparam_rqmc), or posterior=coupling, spline_coupling or iaf"
        )


def _planar(x: Array, numbers: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """y and log |det dy/dx|; and u and v, where dy/dx = 1 + u v^T."""
    dim = x.shape[-1]
    u, w, b = numbers[..., :dim] / dim, numbers[..., dim : 2 * dim], numbers[..., -1]
    product = jnp.sum(w * u, axis=-1)
    wanted = jax.nn.softplus(product + np.log(np.e - 1).astype(x.dtype)) - 1
    u = u + ((wanted - product) / (jnp.sum(jnp.square(w), axis=-1) + 1e-6))[..., None] * w
    h = jnp.tanh(jnp.sum(w * x, axis=-1) + b)
    slope = (1 - jnp.square(h))[..., None] * w
    return (x + u * h[..., None], jnp.log1p(jnp.sum(u * slope, axis=-1))), (u, slope)
