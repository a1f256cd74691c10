"""A problem with several variables of classes, which is small enough to sum over all states."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions
from vae.estimators import mean

OBSERVED = 6


def classes(dimensions: int = 4, categories: int = 4, spread: float = 1.0) -> Problem:
    """The ELBO of D variables of C classes under a small nonlinear decoder.

    log p(x, z) is -(x - 2 tanh(W z))^2 / 2, summed over six observed numbers, plus the log of a uniform prior. The
    logits of q are `spread` times standard normal numbers: q is uniform for spread 0, and nearly deterministic for
    spread 5.
    """
    if categories < 2:
        raise ValueError(f"categories must be at least 2, got {categories}")
    rng = np.random.default_rng(0)
    data = {
        "x": jnp.asarray(rng.normal(size=(1, OBSERVED)), jnp.float32),
        "weights": jnp.asarray(rng.normal(size=(dimensions, categories, OBSERVED)), jnp.float32),
    }
    params = {"phi": {"logits": jnp.asarray(spread * rng.normal(size=(dimensions, categories)), jnp.float32)}}
    return Problem(
        "classes",
        params,
        bounds={"elbo": _elbo},
        data=data,
        oracle=elbo_oracle(_expected, params, data),
        context=data["x"],
        point={"spread": spread},
        exact_by="sum over all states",
        expected=_expected,
    )


def _log_joint(z, data):
    decoded = 2 * jnp.tanh(jnp.einsum("...dc,dco->...o", z, data["weights"], precision="highest"))
    prior = z.shape[-2] * np.log(z.shape[-1])
    return -0.5 * jnp.sum(jnp.square(data["x"] - decoded), axis=-1) - prior


def _elbo(params, data, expect):
    q = distributions.Categorical(params["phi"]["logits"][None])
    return expect(q, lambda z: _log_joint(z, data), mean, log_q_weight=1.0)


def _expected(params, data):
    logits = params["phi"]["logits"]
    dimensions, categories = logits.shape
    index = np.indices((categories,) * dimensions).reshape(dimensions, -1).T
    states = np.eye(categories)[index]  # [C^D, D, C]
    log_q = jnp.sum(states * jax.nn.log_softmax(logits, axis=-1), axis=(-2, -1))
    return jnp.sum(jnp.exp(log_q) * (_log_joint(states, data) - log_q))
