"""A quantizer with an exact gradient: noise on the encoding makes the bound a smooth function of the encoding."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions
from vae.estimators import mean
from vae.estimators.tools import check_positive


def quantized(width: int = 2, sigma: float = 0.5, batch_size: int = 4096) -> Problem:
    """The smoothed bound E f(Q(e + sigma eps)) of one code of `width` numbers, with eps standard normal.

    The codebook is the product of 4 ticks in each of the `width` directions. A code is chosen if the encoding lies
    between two midpoints of ticks in each direction. In a direction, the probability of this is a difference of two
    normal distribution functions. The bound is a sum over all codes. With one number, the derivative in e is the sum
    over the midpoints b of (f(code above b) - f(code below b)) times the density of e + sigma eps at b.

    The data are `batch_size` values of sigma eps that fill the normal distribution evenly. So the mean of a gradient
    over the batch is its mean over the noise, up to less than a percent. Encodings and ticks are positive: the scale
    |c| / |e| of the rotation trick has no mean where e passes through zero.
    """
    check_positive(sigma=sigma)
    if width > 8:
        raise ValueError(f"width must be at most 8, because the truth is a sum over 4^width codes, got {width}")
    direction = np.arange(width)
    ticks = np.array([0.8, 1.3, 2.0, 2.6]) + 0.1 * np.sin(direction)[:, None]  # [W, 4]
    params = {"encoding": {"e": 1.6 + 0.3 * np.cos(2.0 * direction)}, "codebook": {"ticks": ticks}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    return Problem(
        "quantized",
        params,
        {"elbo": _bound},
        data={"noise": sigma * _evenly_normal(batch_size, width)},
        oracle=elbo_oracle(expected, params, sigma),
        exact_by="sum over all codes",
        point={"sigma": sigma},
    )


def _bound(params, data, expect):
    encoding = params["encoding"]["e"] + data["noise"]  # [B, W]
    q = distributions.Quantized(encoding[:, None], product(params["codebook"]["ticks"]))
    return expect(q, lambda z: f(z[..., 0, :]), mean)


def expected(params, sigma):
    """The smoothed bound, a sum over all codes."""
    ticks, e = params["codebook"]["ticks"], params["encoding"]["e"]
    middle = (ticks[:, 1:] + ticks[:, :-1]) / 2
    below = jnp.pad(ndtr((middle - e[:, None]) / sigma), ((0, 0), (1, 1)), constant_values=(0, 1))
    probability = jnp.prod(product(jnp.diff(below)), axis=-1)  # [C]
    return jnp.sum(probability * f(product(ticks)))


def f(z):
    """Minus the squared error of a nonlinear decoder with as many outputs as z has numbers, `[..., W]` -> `[...]`."""
    place = np.arange(z.shape[-1])
    weight = jnp.asarray(np.eye(len(place)) + 0.5 * np.cos(1.0 + place[:, None] + 2 * place), z.dtype)
    return -jnp.sum(jnp.square(1.2 - 1.5 * jnp.sin(z @ weight)), axis=-1)


def product(ticks):
    """All combinations `[4^W, W]` of one of the numbers in each row of `ticks`."""
    choice = np.indices(ticks.shape[1:] * len(ticks)).reshape(len(ticks), -1)
    return jnp.stack([row[index] for row, index in zip(ticks, choice, strict=True)], axis=-1)


def _evenly_normal(size: int, width: int) -> jax.Array:
    """`size` points that fill the standard normal distribution evenly, `[size, W]`.

    They are quantiles of the multiples, modulo 1, of the powers of 1 / g, where g^(W + 1) = g + 1 (M. Roberts 2018,
    "The unreasonable effectiveness of quasirandom sequences").
    """
    g = 2.0
    for _ in range(60):
        g = (1 + g) ** (1 / (width + 1))
    steps = g ** -np.arange(1.0, width + 1)
    return ndtri(jnp.asarray((0.5 + np.arange(size)[:, None] * steps) % 1, jnp.float32))
