"""The von Mises-Fisher distribution, whose samples are differentiated implicitly (arXiv:1805.08498)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import family, uniform
from vae.distributions.special import Numbers, differentiable_once
from vae.distributions.sphere import Spherical


@family
class VonMisesFisher(Spherical):
    """The density is proportional to exp(concentration direction . z), with `location` `[*batch, D]` and the log of the
    concentration `[*batch, 1]`. Everything is accurate for concentrations from 1e-3 on and D from 2 to 50, but above
    1e5 log q(z) of a given z is as inexact as the coordinates of z.

    The angle to the direction is drawn by rejection (Wood 1994, "Simulation of the von Mises Fisher distribution"), and
    its derivative follows from its distribution function.
    """

    location: Float[Array, "*batch D"]
    log_concentration: Float[Array, "*batch 1"]

    @property
    def mean_length(self) -> Float[Array, "*batch 1"]:
        return 1 - shortfall(jnp.exp(self.log_concentration), self.location.shape[-1])

    def log_tangent(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch 1"]:
        dimensions = self.location.shape[-1]
        log_concentration = jnp.broadcast_to(self.log_concentration, (num_samples, *self.log_concentration.shape))
        draws = _wood(key, jnp.exp(stop_gradient(log_concentration)), dimensions)
        return _implicit(draws, log_concentration, dimensions)

    def log_ratio(self, half_square: Numbers) -> Float[Array, "..."]:
        concentration = jnp.exp(self.log_concentration)
        return -2 * concentration * half_square - log_normalizer(concentration, self.location.shape[-1])


# Beyond this concentration the density is a Normal on the tangent plane: the log of the normalizer falls by
# (dimensions - 1) / 2 for each e-fold. Here the difference is below rounding, and far beyond it float32 overflows.
_LARGE = 1e8


def log_normalizer(concentration: Numbers, dimensions: int) -> Float[Array, "*#shape"]:
    """log E exp(concentration (direction . z - 1)), for uniform z."""
    bounded = jnp.minimum(concentration, _LARGE)
    return _log_normalizer(bounded, dimensions) - (dimensions - 1) / 2 * jnp.log(concentration / bounded)


def _log_normalizer(concentration: Numbers, dimensions: int) -> Float[Array, "*#shape"]:
    """`log_normalizer` up to _LARGE.

    It is log[Gamma(n + 1) (2 / x)^n I_n(x)] - x with n = dimensions / 2 - 1. Debye's expansion gives the Bessel
    function of an order N of at least 24, and the recurrence for the ratios of neighbouring orders leads down to n. The
    recurrence adds positive terms only.
    """
    order = dimensions / 2 - 1
    steps = max(0, math.ceil(24 - order))
    top = order + steps
    total = _debye(concentration, top) + top * top / (_root(concentration, top) + concentration) - top
    grown = lambda x: _debye(x, top) + jnp.square(x) / (_root(x, top) + top)
    _, ratio = jax.jvp(grown, (concentration,), (jnp.ones_like(concentration),))  # I_(N+1)(x) / I_N(x)
    ratio = ratio * 2 * (top + 1) / concentration

    def down(carry, factor):
        total, ratio = carry
        term = ratio * jnp.square(concentration / 2) * factor
        return (total + jnp.log1p(term), 1 / (1 + term)), None

    # A loop of XLA: a long row of steps, with its derivatives, would take XLA a minute to compile.
    orders = top - np.arange(steps)
    factors = jnp.asarray(1 / (orders * (orders + 1)), total.dtype)
    return jax.lax.scan(down, (total, ratio), factors, unroll=6)[0][0]


def shortfall(concentration: Numbers, dimensions: int) -> Float[Array, "*#shape"]:
    """1 - E[direction . z], minus the derivative of `log_normalizer`."""
    return scaled_shortfall(concentration, dimensions) / concentration


def scaled_shortfall(concentration: Numbers, dimensions: int) -> Float[Array, "*#shape"]:
    """The concentration times `shortfall`, which approaches (dimensions - 1) / 2."""
    bounded = jnp.minimum(concentration, _LARGE)
    normalizer = functools.partial(_log_normalizer, dimensions=dimensions)
    return -bounded * jax.jvp(normalizer, (bounded,), (jnp.ones_like(bounded),))[1]


def _root(x: Numbers, order: float) -> Float[Array, "*#shape"]:
    return jnp.sqrt(jnp.square(x) + order**2)


def _debye(x: Numbers, order: float) -> Float[Array, "*#shape"]:
    """log[Gamma(N + 1) (2 / x)^N I_N(x)] - sqrt(N^2 + x^2) + N by the first terms of Debye's expansion."""
    at_zero = math.lgamma(order + 1) - (order + 0.5) * math.log(order) + order - 0.5 * math.log(2 * math.pi)
    root = _root(x, order)
    more = jnp.square(x) / (root + order) / order  # root / N - 1
    p = order / root
    square = jnp.square(p)
    first = p * (3 - 5 * square) / 24
    second = square * (81 - square * (462 - 385 * square)) / 1152
    third = p * square * (30375 - square * (369603 - square * (765765 - 425425 * square))) / 414720
    series = (first + (second + third / order) / order) / order
    return at_zero - order * jnp.log1p(more / 2) - 0.5 * jnp.log1p(more) + jnp.log1p(series)


def _wood(key: PRNGKeyArray, concentration: Float[Array, "*shape"], dimensions: int) -> Float[Array, "*shape"]:
    """Draws of log tan(angle / 2): proposals are accepted with a probability of at least 0.6."""
    width = dimensions - 1
    b = width / (2 * concentration + jnp.hypot(2 * concentration, width))
    from_one = 2 * b / (1 + b)  # 1 - x0 in Wood's paper

    def propose(state):
        index, value, done = state
        key_normal, key_uniform = jax.random.split(jax.random.fold_in(key, index))
        normal = jax.random.normal(key_normal, (*concentration.shape, dimensions), concentration.dtype)
        # Half the log odds of a Beta(width / 2, width / 2) variable.
        odds = jnp.arcsinh(normal[..., 0] / jnp.linalg.norm(normal[..., 1:], axis=-1))
        proposal = jnp.clip(0.5 * jnp.log(b) + odds, -42.0, 42.0)
        less = 2 * jax.nn.sigmoid(2 * proposal)  # 1 - cos(angle)
        log_ratio = jnp.log((from_one + (1 - from_one) * less) * jnp.square(1 + b) / (4 * b))
        log_accept = concentration * (from_one - less) + width * log_ratio
        accept = log_accept >= jnp.log(uniform(key_uniform, concentration.shape, concentration.dtype))
        return index + 1, jnp.where(done, value, proposal), done | accept

    # The limit ends the loop where the concentration is NaN.
    unfinished = lambda state: jnp.any(~state[2]) & (state[0] < 100)
    start = (0, jnp.zeros_like(concentration), jnp.zeros(concentration.shape, bool))
    return jax.lax.while_loop(unfinished, propose, start)[1]


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _implicit(log_tangent, log_concentration, dimensions):
    """log tan(angle / 2), as the quantile of its distribution."""
    del log_concentration, dimensions
    return log_tangent


@_implicit.defjvp
def _implicit_jvp(dimensions, primals, tangents):
    log_tangent, log_concentration = _implicit(*primals, dimensions), primals[1]
    x = jnp.exp(log_concentration)
    angle = 2 * jnp.arctan(jnp.exp(log_tangent))
    x_less = scaled_shortfall(x, dimensions)
    # The derivative of the angle is an integral of cos - mean, from the angle to the end on its side of the mean, over
    # the density at the angle. The integrand has one sign there, and vanishes beyond seven widths of the density.
    above = 2 * x * jnp.square(jnp.sin(angle / 2)) > x_less
    reach = 7 / jnp.sqrt(x + max(dimensions - 2, 0.01))
    length = jnp.minimum(reach, jnp.where(above, math.pi - angle, angle))
    side = jnp.where(above, 1.0, -1.0).astype(angle.dtype)
    nodes, weights = (jnp.asarray(each / 2, angle.dtype) for each in (_NODES + 1, _WEIGHTS))
    step = (side * length)[..., None] * nodes
    other = angle[..., None] + step
    log_density = -2 * x[..., None] * jnp.sin(angle[..., None] + step / 2) * jnp.sin(step / 2)
    sine = lambda angle: jnp.maximum(jnp.sin(angle), 1e-30)
    log_density += (dimensions - 2) * (jnp.log(sine(other)) - jnp.log(sine(angle))[..., None])
    excess = x_less[..., None] - 2 * x[..., None] * jnp.square(jnp.sin(other / 2))  # times x, which may be huge
    integral = length / sine(angle) * jnp.sum(weights * excess * jnp.exp(log_density), axis=-1)
    return log_tangent, side * integral * tangents[1] * differentiable_once(log_concentration)
