"""Estimators with coupled samples (ARM, DisARM, ARMS, DisARM-IW) against closed forms and enumerations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import MAX_Z, problem
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, log_mean_exp, mean
from vae.estimators.arms import arms, covariance_ratio, opposed_samples
from vae.estimators.disarm_iw import _couple, coupling_ratio, stick_log_odds
from vae.estimators.parts.coupled_pairs import coupled_pairs


def test_variances_of_pairs_on_one_bernoulli():
    """The cost is f(b) = (b - t)^2, and the gradient is in the logit.

    The second moment of ARM is (1 - 2 t)^2 times the integral of (1/2 - u)^2 over the u for which the pair differs.
    """
    t, p = np.array([[0.45, 0.45, 0.49, 0.499], [0.5, 0.1, 0.7, 0.1]])  # four problems, which are data of one batch
    q = Bernoulli(jnp.log(p)[:, None] - jnp.log1p(-p)[:, None])
    f = lambda z: jnp.square(z[..., 0] - t)
    slope, less, more = (1 - 2 * t) * p * (1 - p), np.minimum(p, 1 - p), np.maximum(p, 1 - p)
    expected = {
        "arm": (1 - 2 * t) ** 2 * 2 / 3 * (1 / 8 - (1 / 2 - less) ** 3) - slope**2,
        "disarm": (1 - 2 * t) ** 2 * (less * more**2 / 2 - (less * more) ** 2),
        "arms": (1 - 2 * t) ** 2 * (less * more**2 / 2 - (less * more) ** 2),
        "bitflip": 0 * t,
    }
    assert np.all(expected["disarm"] < expected["arm"])
    for name, variance in expected.items():
        grads = draw_gradients(BY_NAME[name].make(), q, f, 2**18).logits[..., 0]  # [draws, 4]
        rounding = 1e-3 * slope**2
        assert np.all(np.abs(grads.var(0) - variance) < 0.03 * variance + rounding)
        assert np.all(np.abs(grads.mean(0) - slope) < MAX_Z * np.sqrt(np.maximum(variance, rounding) / len(grads)))


def test_disarm_has_less_variance_than_arm_in_every_coordinate():
    toy = problem("Bernoulli")
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    arm, disarm = (draw_gradients(BY_NAME[name].make(), q, f, 2**17).logits.var(axis=0) for name in ("arm", "disarm"))
    assert np.all(disarm < arm)


@pytest.mark.parametrize("name", ["arm", "disarm"])
def test_two_pairs_have_half_the_variance_of_one(name):
    q, f = Bernoulli(np.float32([0.8, -0.4, 0.1])), lambda z: jnp.sin(2 * jnp.sum(z, axis=-1)) + z[..., 0]
    variance = lambda number: draw_gradients(BY_NAME[name].make(num_samples=number), q, f, 2**14).logits.var(0).sum()
    assert 0.45 < variance(4) / variance(2) < 0.55


def test_arms_of_two_samples_is_disarm():
    """Two opposed samples are an antithetic pair, so both estimators are the same function of one uniform number."""
    toy = problem("Bernoulli")
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    np.testing.assert_allclose(covariance_ratio(q, 2), jax.nn.sigmoid(jnp.abs(q.logits)), rtol=1e-6)

    def couple(key, q, n):
        z, partner = opposed_samples(key, q, 2)
        return z[None], partner[None], 0.5 * jax.nn.sigmoid(jnp.abs(q.logits)) * (z - partner)[None]

    as_pair, as_set = (draw_gradients(estimator, q, f, 256).logits for estimator in (coupled_pairs(couple, 2), arms(2)))
    np.testing.assert_allclose(as_set, as_pair, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_opposed_samples_follow_q_and_have_the_covariance_of_the_ratio(n):
    q = Bernoulli(jnp.array([-2.5, -0.9, -0.1, 0.4, 1.5]))
    p = np.float64(q.mean)
    draws = 2**18
    z = np.float64(
        jax.jit(jax.vmap(lambda key: opposed_samples(key, q, n)))(jax.random.split(jax.random.key(0), draws))
    )
    assert np.all(np.abs(z.mean(0) - p) < MAX_Z * np.sqrt(p * (1 - p) / draws))
    for i, j in itertools.combinations(range(n), 2):
        products = (z[:, i] - p) * (z[:, j] - p)
        sample_covariance = p * (1 - p) - products.mean(
            0
        )  # the expectation of half the squared difference of two samples
        expected = p * (1 - p) / np.float64(covariance_ratio(q, n))
        assert np.all(np.abs(sample_covariance - expected) < MAX_Z * products.std(0) / np.sqrt(draws))
        assert np.all(products.mean(0) < 0)


def test_many_opposed_samples_are_nearly_independent():
    np.testing.assert_allclose(covariance_ratio(Bernoulli(jnp.array([-2.0, 0.0, 1.0])), 1000), 1, rtol=0.01)


@pytest.mark.parametrize("name", ["arm", "disarm", "disarm_iw"])
def test_an_odd_number_of_coupled_samples_is_refused_only_for_the_mean(name):
    toy = problem("Categorical" if name == "disarm_iw" else "Bernoulli")
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    estimate = lambda reduce: BY_NAME[name].make(num_samples=3).estimate({}, {}, jax.random.key(0), q, f, reduce).value
    with pytest.raises(ValueError, match="such as arm and disarm, need an even number of samples, got num_samples=3"):
        estimate(mean)
    assert jax.eval_shape(lambda: estimate(log_mean_exp)).shape == (2,)


LOGITS = {
    "unlike": [0.5, -0.7, 0.1, 2.0],
    "alike": [0.0, 0.0, 0.0, 0.0],
    "peaked": [-20.0, 5.0, -3.0, 5.0],
    "two": [0.3, -0.9],
    "many": list(np.linspace(-1, 1, 12)),
}


def _joint_of_ranks(shares):
    """P(z, partner) by rank `[C, C]`, from the stopping probabilities `shares` `[C - 1]` of the two coupled walks."""
    classes = len(shares) + 1
    joint = np.zeros((classes, classes))
    both_walk, first_walks, second_walks = (
        1.0,
        np.zeros(classes),
        np.zeros(classes),
    )  # indexed by the rank at which the other walk stopped
    for i, share in enumerate([*shares, 1.0]):
        joint[i] += first_walks * share  # the first walk stops here, after the second
        joint[:, i] += second_walks * share
        joint[i, i] += both_walk * max(2 * share - 1, 0)
        first_walks, second_walks = first_walks * (1 - share), second_walks * (1 - share)
        one_stops = both_walk * min(share, 1 - share)
        first_walks[i] += one_stops  # only the second walk stops here
        second_walks[i] += one_stops
        both_walk *= max(1 - 2 * share, 0)
    return joint


@pytest.mark.parametrize("case", LOGITS)
def test_the_categorical_ratio_agrees_with_the_enumerated_coupling(case):
    logits = np.sort(np.float64(LOGITS[case]))
    q = np.exp(logits - np.log(np.sum(np.exp(logits))))
    with jax.enable_x64(True):
        log_odds = stick_log_odds(jnp.asarray(logits))
        table = np.asarray(coupling_ratio(log_odds))
    joint = _joint_of_ranks(1 / (1 + np.exp(-np.asarray(log_odds))))
    np.testing.assert_allclose(joint.sum(0), q, rtol=1e-9)
    np.testing.assert_allclose(joint.sum(1), q, rtol=1e-9)
    apart = ~np.eye(len(q), dtype=bool)
    ratio = table[np.minimum(*np.indices(joint.shape))]
    np.testing.assert_allclose((joint * ratio)[apart], np.outer(q, q)[apart], rtol=1e-9)
    assert np.all(np.isfinite(table))
    assert np.max(ratio[apart]) < 2
    # For a table f, the gradient of E[f] is the sum of P(z, z') ratio (f(z) - f(z')) (e_z - e_z') / 2 over all pairs.
    f = np.random.default_rng(0).normal(size=len(q))
    weight = joint * ratio * (f[:, None] - f[None])
    np.testing.assert_allclose((weight.sum(1) - weight.sum(0)) / 2, q * (f - q @ f), atol=1e-9)
    if case == "two":
        np.testing.assert_allclose(table[0], 1 / (1 + np.exp(-abs(logits[0] - logits[1]))), rtol=1e-9)


def test_categorical_pairs_are_drawn_from_the_enumerated_coupling():
    logits, draws = np.float32(LOGITS["unlike"]), 2**18
    couple = jax.jit(lambda key, q: _couple(key, q, draws))
    z, partner, weight = couple(jax.random.key(0), Categorical(jnp.asarray(logits)[None]))
    counts = np.float64(jnp.einsum("kc,ke->ce", z[:, 0], partner[:, 0], precision="highest")) / draws
    order = np.argsort(logits)
    log_odds = np.float64(stick_log_odds(jnp.asarray(logits[order])))
    joint = np.zeros_like(counts)
    joint[np.ix_(order, order)] = _joint_of_ranks(1 / (1 + np.exp(-log_odds)))
    assert np.all(np.abs(counts - joint) <= MAX_Z * np.sqrt(joint * (1 - joint) / draws))
    assert np.all(np.isfinite(weight))
