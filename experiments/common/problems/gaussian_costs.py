"""Expected costs of z ~ N(mean, scale^2) (Mohamed, Rosca, Figurnov & Mnih 2020, arXiv:1906.10652, section 3)."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions
from vae.estimators import mean


def quadratic(cost_parameter: float = -1.0) -> Problem:
    """E (z - k)^2 for z ~ N(1, 1), where k is the cost parameter."""
    return _problem("quadratic", cost_parameter)


def exponential(cost_parameter: float = 1.0) -> Problem:
    """E exp(-k z^2) for z ~ N(1, 1), where k is the cost parameter."""
    return _problem("exponential", cost_parameter)


def cosine(cost_parameter: float = 1.0) -> Problem:
    """E cos(k z) for z ~ N(1, 1), where k is the cost parameter."""
    return _problem("cosine", cost_parameter)


_COSTS = {
    "quadratic": lambda z, k: jnp.square(z - k),
    "exponential": lambda z, k: jnp.exp(-k * jnp.square(z)),
    "cosine": lambda z, k: jnp.cos(k * z),
}

_EXPECTED_COSTS = {
    "quadratic": lambda m, s, k: (m - k) ** 2 + s**2,
    "exponential": lambda m, s, k: (1 + 2 * k * s**2) ** -0.5 * jnp.exp(-k * m**2 / (1 + 2 * k * s**2)),
    "cosine": lambda m, s, k: jnp.cos(k * m) * jnp.exp(-((k * s) ** 2) / 2),
}


def _problem(name: str, k: float) -> Problem:
    params = {"phi": {"mean": jnp.ones(1), "scale": jnp.ones(1)}}
    return Problem(
        name,
        params,
        bounds={"elbo": _bound(name)},
        data=jnp.asarray(k),
        oracle=elbo_oracle(_expected(name), params, k),
        point={"cost_parameter": k},
    )


# Each cost has one function here and one below, so that the points of a sweep share compiled programs.
@functools.cache
def _expected(name: str) -> Callable:
    def expected(params, k):
        return jnp.sum(_EXPECTED_COSTS[name](params["phi"]["mean"], params["phi"]["scale"], k))

    return expected


@functools.cache
def _bound(name: str) -> Callable:
    def bound(params, k, expect):
        q = distributions.Normal(params["phi"]["mean"], 2 * jnp.log(params["phi"]["scale"]))
        return expect(q, lambda z: jnp.sum(_COSTS[name](z, k), axis=-1), mean)

    return bound
