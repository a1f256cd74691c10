"""Renyi's bounds and the thermodynamic objective, as functions of log-weights that are given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import distributions as dist
from vae import objectives
from vae.diagnostics import expectations


def _reduction(objective):
    q = dist.Normal(np.zeros(1), np.zeros(1))  # any
    [recorded] = expectations.record(lambda expect: objective(lambda *args, **options: q, {}, jnp.zeros(1), expect))
    return recorded.reduce


def test_the_renyi_bound_goes_to_the_elbo_smoothly():
    """With log-weights of -120 +- 4, whose mean of powers rounds to 1; also where one weight is zero."""
    log_w = np.float32(-120 + 4 * np.random.default_rng(0).normal(size=(16, 3)))
    log_w[0, 2] = -np.inf

    def bound(alpha, log_w):
        value = _reduction(objectives.renyi(alpha))(log_w)
        return jnp.sum(value), value

    for alpha in (0.3, 0.9, 0.999, 0.9999999):
        of_weights = jax.value_and_grad(functools.partial(bound, alpha), has_aux=True)
        (_, value), gradient = jax.jit(of_weights)(log_w)
        powers = (1 - alpha) * (np.float64(log_w) + 120)
        truth = np.log1p(np.mean(np.expm1(powers), axis=0)) / (1 - alpha) - 120
        np.testing.assert_allclose(value, truth, rtol=1e-6)
        np.testing.assert_allclose(gradient, np.exp(powers) / np.exp(powers).sum(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(value[:2], np.float64(log_w[:, :2]).mean(axis=0), rtol=1e-6)


def test_the_renyi_bound_of_one_weight_among_many_is_its_share():
    """The other weights do not count, so the mean of the powers is 1 / K. Without any weight, the bound is -inf."""
    bound = jax.jit(_reduction(objectives.renyi(0.5)))
    others = np.full((100_000 - 1, 1), -1e4)
    log_w = jnp.float32(np.concatenate([others, [[-3.0]]]))
    np.testing.assert_allclose(bound(log_w), -3 - 2 * np.log(100_000), rtol=1e-6)
    assert bound(jnp.full((4, 1), -jnp.inf)) == -np.inf


@pytest.mark.parametrize("make", [objectives.renyi, objectives.thermodynamic])
def test_a_bound_moves_with_its_log_weights_and_says_so(make):
    """Estimators of bounds that say so shift the log-weights to near 0, which saves digits."""
    reduce = _reduction(make())
    assert reduce.shift_equivariant
    log_w = jnp.float32(np.random.default_rng(0).normal(size=(6, 3)))
    np.testing.assert_allclose(jax.jit(reduce)(log_w + 10), jax.jit(reduce)(log_w) + 10, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: objectives.renyi(1.0), lambda: objectives.renyi(-0.1)])
def test_renyi_refuses_what_it_is_not_defined_for(make):
    with pytest.raises(ValueError, match="alpha must be in"):
        make()


@pytest.mark.parametrize("options", [{"partitions": 0}, {"first": 0.0}, {"first": 1.0}])
def test_the_thermodynamic_objective_refuses_empty_partitions(options):
    with pytest.raises(ValueError, match="needs partitions"):
        objectives.thermodynamic(**options)
