"""Toy problems for estimators of discrete latents: costs of coins, and a table over bits.

Bounds are maximised, so the bound of a cost is minus the cost.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions
from vae.estimators import mean


def coins(target: float = 0.45, power: float = 2.0, dimensions: int = 1, batch_size: int = 1) -> Problem:
    """The mean over D fair coins of -|b - target|^power. A batch averages over several copies of the problem.

    One coin and power 2 are the toy of REBAR (Tucker et al. 2017, arXiv:1703.07370; target 0.45) and of RELAX
    (Grathwohl et al. 2017, arXiv:1711.00123; 0.49 and 0.499); 128 coins and powers 1.5, 2 and 3 are the toy of ReinMax
    (Liu et al. 2023, arXiv:2304.08612).
    """
    data = {"target": jnp.full(batch_size, target), "power": jnp.full(batch_size, power)}
    params = {"phi": {"logits": jnp.zeros(dimensions)}}
    point = {"target": target} if dimensions == 1 else {"power": power}
    return _problem("coins", params, data, _coins, _expected_coins, point)


def _coins(params, data, expect):
    q = distributions.Bernoulli(_repeated(params["phi"]["logits"], len(data["power"])))
    cost = lambda z: jnp.mean(_power(jnp.abs(z - data["target"][:, None]), data["power"][:, None]), axis=-1)
    return expect(q, lambda z: -cost(z), mean)


def _expected_coins(params, data):
    p = jax.nn.sigmoid(params["phi"]["logits"])
    target = data["target"][0]
    power = data["power"][0]
    return -jnp.mean(p * (1 - target) ** power + (1 - p) * target**power)


def _power(distance, power):
    """distance^power, with a finite derivative at the distance 0, which a relaxed coin may have."""
    return jnp.where(distance > 0, jnp.where(distance > 0, distance, 1.0) ** power, 0.0)


def three_bits(batch_size: int = 1) -> Problem:
    """Minus the squared distance of three coins to (0.6, 0.51, 0.48).

    The coins share one logit and form one categorical variable of eight classes (Kool, van Hoof & Welling 2020,
    arXiv:2002.06043, section 4.1).
    """
    data = jnp.broadcast_to(_TARGETS, (batch_size, 3))
    params = {"phi": {"logit": jnp.zeros(())}}
    return _problem("three_bits", params, data, _three_bits, _expected_bits)


_TARGETS = np.array([0.6, 0.51, 0.48], np.float32)  # a jax array would start the device at import
_BITS = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.float32)  # [8, 3]


def _three_bits(params, data, expect):
    bits = distributions.Bernoulli(_repeated(params["phi"]["logit"], 3))
    q = distributions.Categorical(_repeated(bits.log_prob(_BITS[:, None])[:, 0][None], len(data)))  # [B, 1, 8]
    return expect(q, lambda z: -jnp.sum(jnp.square(z[..., 0, :] @ _BITS - data), axis=-1), mean)


def _expected_bits(params, data):
    p = jax.nn.sigmoid(params["phi"]["logit"])
    return -jnp.sum(p * jnp.square(1 - data[0]) + (1 - p) * jnp.square(data[0]))


def table(dimensions: int = 6, batch_size: int = 1) -> Problem:
    """The ELBO of D bits whose posterior no factorized q can match.

    log p(x, z) is a table of 2^D standard normal numbers, extended between the states as a multilinear function.
    """
    if dimensions > 20:
        raise ValueError(f"dimensions must be at most 20, because the table has 2^dimensions numbers, got {dimensions}")
    log_joint = np.random.default_rng(0).normal(size=2**dimensions).astype(np.float32)
    data = jnp.broadcast_to(log_joint, (batch_size, 2**dimensions))
    params = {"phi": {"logits": jnp.zeros(dimensions)}}
    return _problem("table", params, data, _table, _expected_table)


def _table(params, data, expect):
    q = distributions.Bernoulli(_repeated(params["phi"]["logits"], len(data)))
    return expect(q, lambda z: jnp.sum(_weights(z) * data, axis=-1), mean, log_q_weight=1.0)


def _expected_table(params, data):
    p = jax.nn.sigmoid(params["phi"]["logits"])
    weights = _weights(p)
    entropy = -jnp.sum(p * jax.nn.log_sigmoid(params["phi"]["logits"]), axis=-1)
    entropy -= jnp.sum((1 - p) * jax.nn.log_sigmoid(-params["phi"]["logits"]), axis=-1)
    return jnp.sum(weights * data[0]) + entropy


def _weights(z):
    """The weight of each of the 2^D states, `[..., 2^D]`, for z `[..., D]`. If z is a state, its weight is 1."""
    weights = jnp.ones((*z.shape[:-1], 1), z.dtype)
    for bit in range(z.shape[-1]):
        one = z[..., bit, None]
        weights = jnp.concatenate([weights * (1 - one), weights * one], axis=-1)
    return weights


def _repeated(leaf, times: int):
    return jnp.broadcast_to(leaf, (times, *leaf.shape))


def _problem(name, params, data, bound: Callable, expected: Callable, point: dict[str, float] | None = None) -> Problem:
    return Problem(
        name,
        params,
        bounds={"elbo": bound},
        data=data,
        oracle=elbo_oracle(expected, params, data),
        context=data,
        point=point or {},
        expected=expected,
    )
