"""ARSM and CARMS, estimators with coupled samples of classes, against ARM and against enumerated couplings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import LOG_Q_WEIGHT, MAX_Z
from tests.vae.estimators.test_coupled_pairs import LOGITS
from vae.distributions import Bernoulli, Categorical
from vae.estimators import make
from vae.estimators.arms import opposed_samples
from vae.estimators.carms import pair_weight
from vae.estimators.disarm_iw import coupling_ratio, first_stop, stick_log_odds
from vae.estimators.parts.coupled_pairs import coupled_pairs
from vae.estimators.parts.one_hot import harden


def test_arsm_of_two_classes_is_arm():
    """ARM draws z and its partner from u and 1 - u, with the weight 1/2 - u. Here u is the first of two noises on the
    simplex."""

    def couple(key, q, n):
        gumbel = jax.random.gumbel(key, (n, *q.logits.shape))
        z, partner = harden(q.logits + gumbel), harden(q.logits + gumbel[..., ::-1])
        u = jax.nn.sigmoid(gumbel[..., 1] - gumbel[..., 0])
        return z, partner, jnp.stack([0.5 - u, u - 0.5], axis=-1)

    q = Categorical(jnp.array([[0.6, -0.3], [-1.1, 0.2], [0.1, 0.5]]))
    f = lambda z: jnp.sin(2 * z[..., 0] @ jnp.array([0.8, -1.7, 0.4]))
    arm, arsm = (
        draw_gradients(estimator, q, f, 256, log_q_weight=LOG_Q_WEIGHT).logits
        for estimator in (coupled_pairs(couple, 2), make("arsm"))
    )
    np.testing.assert_allclose(arsm, arm, atol=1e-6)


def test_the_noise_of_the_arm_of_two_classes_gives_the_bits_of_arm():
    """The control of the test above: the larger perturbed logit is the first one where u < sigmoid(logit)."""
    gumbel = jax.random.gumbel(jax.random.key(0), (1000, 2))
    u = jax.nn.sigmoid(gumbel[..., 1] - gumbel[..., 0])
    z = harden(jnp.array([0.6, 0.0]) + gumbel)
    np.testing.assert_array_equal(z[..., 0], u < jax.nn.sigmoid(0.6))


def _joint_of_ranks(shares, n):
    """P(z, z') of two of n walks by rank `[C, C]`, from their stopping probabilities `shares` `[C - 1]`."""
    joint = np.zeros((len(shares) + 1,) * 2)
    both_walk = 1.0
    for i, share in enumerate(shares):
        both_stop = share * max(2 - share ** (-1 / (n - 1)), 0) ** (n - 1)
        later = np.append(shares[i + 1 :], 1) * np.cumprod(np.append(1, 1 - shares[i + 1 :]))
        joint[i, i] = both_walk * both_stop
        joint[i, i + 1 :] = joint[i + 1 :, i] = both_walk * (share - both_stop) * later
        both_walk *= 1 - 2 * share + both_stop
    joint[-1, -1] = both_walk
    return joint


def _ascending(case):
    logits = np.sort(np.float64(LOGITS[case]))
    log_odds = np.asarray(jax.jit(stick_log_odds)(logits))
    return np.exp(logits - np.logaddexp.reduce(logits)), log_odds, 1 / (1 + np.exp(-log_odds))


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("case", LOGITS)
def test_the_weight_of_a_pair_agrees_with_the_enumerated_coupling(case, n):
    with jax.enable_x64(True):
        q, log_odds, shares = _ascending(case)
        table = np.asarray(jax.jit(pair_weight, static_argnums=1)(log_odds, n))
    joint = _joint_of_ranks(shares, n)
    np.testing.assert_allclose(joint.sum(0), q, rtol=1e-9)
    apart = ~np.eye(len(q), dtype=bool)
    weight = table[np.minimum(*np.indices(joint.shape))]
    np.testing.assert_allclose((joint * weight)[apart], np.outer(q, q)[apart], rtol=1e-9)
    assert np.all(table < 2)
    # For a table f, the gradient of E[f] is the sum of P(z, z') weight (f(z) - f(z')) (e_z - e_z') / 2 over all pairs.
    f = np.random.default_rng(0).normal(size=len(q))
    term = joint * weight * (f[:, None] - f)
    np.testing.assert_allclose((term.sum(1) - term.sum(0)) / 2, q * (f - q @ f), atol=1e-9)


@pytest.mark.parametrize("case", LOGITS)
def test_two_samples_of_carms_have_the_weight_of_disarm_iw(case):
    with jax.enable_x64(True):
        log_odds = _ascending(case)[1]
        np.testing.assert_allclose(
            jax.jit(pair_weight, static_argnums=1)(log_odds, 2), jax.jit(coupling_ratio)(log_odds), rtol=1e-9
        )


def test_three_walks_are_drawn_from_the_enumerated_coupling():
    _, log_odds, shares = _ascending("unlike")
    draws = 2**17
    q = Bernoulli(jnp.asarray(log_odds, jnp.float32))
    walk = lambda key: first_stop(opposed_samples(key, q, 3) == 1)[:, 0]
    ranks = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(0), draws)))  # [draws, 3]
    joint = _joint_of_ranks(shares, 3)
    for i, j in itertools.combinations(range(3), 2):
        counts = np.histogram2d(ranks[:, i], ranks[:, j], bins=np.arange(5) - 0.5)[0] / draws
        assert np.all(np.abs(counts - joint) <= MAX_Z * np.sqrt(joint * (1 - joint) / draws))


def test_classes_by_the_inverse_cumulative_distribution_can_be_impossible_together():
    """The reason for the walks: with u and 1 - u, the first two of four equal classes never form a pair."""
    u = np.linspace(0.001, 0.999, 999)
    pairs = set(zip(np.int64(4 * u), np.int64(4 * (1 - u)), strict=True))
    assert (0, 1) not in pairs
    assert np.all(_joint_of_ranks(np.array([1 / 4, 1 / 3, 1 / 2]), 2)[~np.eye(4, dtype=bool)] > 0)


def test_carms_has_less_variance_than_leave_one_out_with_as_many_samples():
    q = Categorical(jnp.array([[0.5, -0.7, 0.1, -0.2], [-0.9, 0.4, 0.8, 0.0]]))
    f = lambda z: jnp.sum(z @ jnp.array([1.7, -0.4, 2.2, 0.3]), axis=-1)
    carms, leave_one_out = (
        draw_gradients(make(name, num_samples=4), q, f, 2**14).logits.var(axis=0).sum()
        for name in ("carms", "leave_one_out")
    )
    assert carms < 0.9 * leave_one_out
