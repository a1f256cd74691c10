"""Linear-Gaussian models: z ~ N(prior, I), x ~ N(W z + offset, noise^2 I), q = N(A x + b, diag exp(log_var))."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions, objectives

PyTree = Any


def linear_gaussian(batch_size: int = 8) -> Problem:
    """The linear-Gaussian VAE (Lucas et al. 2019, arXiv:1911.02469) with an encoder away from its optimum."""
    data_dim = 6
    latent_dim = 3
    rng = np.random.default_rng(0)
    encoder = {
        "A": 0.3 * rng.normal(size=(latent_dim, data_dim)),
        "b": 0.3 * rng.normal(size=latent_dim),
        "log_var": -0.6 + 0.3 * rng.normal(size=latent_dim),
    }
    decoder = {
        "W": rng.normal(size=(data_dim, latent_dim)) / np.sqrt(latent_dim),
        "offset": 0.3 * rng.normal(size=data_dim),
        "log_noise": np.asarray(-0.7),
    }
    x = rng.normal(size=(batch_size, data_dim)) @ rng.normal(size=(data_dim, data_dim)) / np.sqrt(data_dim)
    return _problem("linear_gaussian", {"encoder": encoder, "decoder": decoder}, x, _vae_numbers)


def rainforth(batch_size: int = 16) -> Problem:
    """The model of "Tighter Variational Bounds are Not Necessarily Better" (Rainforth et al. 2018, arXiv:1802.04537):
    z ~ N(mu, I), x ~ N(z, I), q = N(A x + b, 2/3 I), slightly away from its optimum mu = mean x, A = I / 2, b = mu / 2.

    The batch holds `batch_size` of the model's 1024 data. For K from 4 to 256 the SNR of an importance-weighted
    gradient grows with sqrt(K) for theta and falls with sqrt(K) for phi. DReG's SNR grows for both.
    """
    data_dim = 20
    rng = np.random.default_rng(0)
    x = rng.normal(size=data_dim) + np.sqrt(2) * rng.normal(size=(1024, data_dim))
    near = lambda leaf: leaf + 0.01 * rng.normal(size=leaf.shape)
    phi = {"A": near(np.eye(data_dim) / 2), "b": near(x.mean(0) / 2)}
    return _problem("rainforth", {"phi": phi, "theta": {"mu": near(x.mean(0))}}, x[:batch_size], _rainforth_numbers)


class _Numbers(NamedTuple):
    """The numbers of a model: log_var belongs to q, log_noise is log noise^2, and prior is the prior's mean."""

    A: Any
    b: Any
    log_var: Any
    W: Any
    offset: Any
    log_noise: Any
    prior: Any


def _vae_numbers(params: dict[str, PyTree]) -> _Numbers:
    return _Numbers(**params["encoder"], **params["decoder"], prior=0.0)


def _rainforth_numbers(params: dict[str, PyTree]) -> _Numbers:
    return _Numbers(
        **params["phi"], log_var=np.log(2 / 3), W=1.0, offset=0.0, log_noise=0.0, prior=params["theta"]["mu"]
    )


def _problem(name: str, params: dict[str, PyTree], x: np.ndarray, numbers: Callable) -> Problem:
    def apply(params, *args, method: str):
        return _METHODS[method](numbers(params), *args)

    def bound(objective):
        return lambda params, x, expect: objective(apply, params, x, expect)

    names = ("elbo", "elbo_analytic", "iwae", "renyi", "thermodynamic", "ula", "uha")
    params, data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x))
    bounds = {name: bound(objectives.make(name)) for name in names}
    return Problem(name, params, bounds, data, elbo_oracle(_mean_elbo(numbers), params, x), context=data)


def _project(matrix, z):
    """The product of a matrix, or of a multiple of the identity, with z."""
    return z @ jnp.swapaxes(matrix, -1, -2) if jnp.ndim(matrix) else matrix * z


def _encode(m: _Numbers, x):
    centre = _project(m.A, x) + m.b
    return distributions.Normal(centre, jnp.broadcast_to(jnp.asarray(m.log_var, centre.dtype), centre.shape))


def _prior(m: _Numbers):
    centre = jnp.zeros_like(m.b) + m.prior
    return distributions.Normal(centre, jnp.zeros_like(centre))


def _log_likelihood(m: _Numbers, x, z):
    centre = _project(m.W, z) + m.offset
    noise = jnp.broadcast_to(jnp.asarray(m.log_noise, centre.dtype), centre.shape)
    return distributions.Normal(centre, noise).log_prob(x)


_METHODS = {
    "encode": _encode,
    "prior_distribution": _prior,
    "log_likelihood": _log_likelihood,
    "kl_to_prior": lambda m, q: distributions.kl(q, _prior(m)),
}


@functools.cache  # so that the points of a sweep share one compiled program
def _mean_elbo(numbers: Callable) -> Callable:
    return lambda params, x: jnp.mean(_elbo(numbers(params), x))


def _elbo(m: _Numbers, x):
    """The ELBO `[B]` in closed form. The variances of q lower E log p(x|z) by `spread`."""
    q = _encode(m, x)
    columns = jnp.sum(jnp.square(m.W), axis=0) if jnp.ndim(m.W) else jnp.square(m.W)
    spread = 0.5 * jnp.sum(columns * jnp.exp(q.log_var), axis=-1) / jnp.exp(m.log_noise)
    return _log_likelihood(m, x, q.mean) - spread - distributions.kl(q, _prior(m))
