"""Samples and densities of every family against scipy, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit

from tests.helpers.families import (
    BATCH,
    CLASSES,
    DIM,
    FAMILIES,
    LEVELS,
    MEMBERS,
    ask,
    draw,
    float64,
    frozen,
    scipy_log_prob,
    z_score,
)
from vae import distributions as dist
from vae.estimators.arms import opposed_samples


@pytest.mark.parametrize("name", FAMILIES)
def test_log_prob_is_scipys(name):
    answers, (q, p) = ask(name), MEMBERS[name]
    z = answers["z"][:300]
    assert answers["z"].dtype == answers["q"].dtype == np.float32
    assert q.batch_shape == (BATCH,)
    np.testing.assert_allclose(answers["q"][:300], scipy_log_prob(q, z), rtol=2e-5, atol=5e-5)
    np.testing.assert_allclose(answers["p"][:300], scipy_log_prob(p, z), rtol=2e-5, atol=5e-5)
    assert np.abs(answers["p"][:300] - scipy_log_prob(q, z)).mean() > 0.05  # control: q and p are not the same


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_of_the_density(name):
    answers = ask(name)
    weights = np.exp(float64(answers["p"]) - float64(answers["q"]))  # [K, B]
    scores, error = z_score(weights, 1.0)  # E_q p(z) / q(z) = 1
    assert scores.max() < 4.5
    assert error.max() < 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_pass_kolmogorov_smirnov_or_chi_square(name):
    (q, p), z = MEMBERS[name], ask(name)["z"][:10_000]
    assert _p_value(q, z) > 1e-4
    assert _p_value(p, z) < 1e-10  # the control


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "DiscretizedLogistic"])
def test_mean_is_that_of_the_samples(name):
    z = float64(ask(name)["z"])
    if name in ("BinaryConcrete", "ExpConcrete"):  # whose mean is that of the discrete variable they stand for
        z = z > 0 if name == "BinaryConcrete" else z == z.max(-1, keepdims=True)
    scores, error = z_score(float64(z), float64(MEMBERS[name][0].mean))
    assert scores.max() < 4.5
    assert error.max() < 0.03


def test_students_tail_is_heavy_far_out():
    """At half a degree of freedom, one sample in 100 is beyond 5000."""
    q = dist.StudentT(jnp.zeros(1), jnp.zeros(1), jnp.full(1, np.log(0.5)))
    z = jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 20_000)
    for far in (1e2, 1e4, 1e6):
        expected = 2 * st.t.sf(far, 0.5)
        assert abs(np.mean(np.abs(z) > far) - expected) < 4.5 * np.sqrt(expected / len(z))


def test_samples_of_two_classes_are_bits():
    q, other = (dist.Categorical(draw(seed, BATCH, DIM, 2, scale=1.2)) for seed in (40, 41))
    z = jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 10_000)
    assert z.shape == (10_000, BATCH, DIM, 2)
    assert _p_value(q, z) > 1e-4
    assert _p_value(other, z) < 1e-10  # the control


def _p_value(q, z):
    """The smallest p-value over all coordinates of the batch, times their number (Bonferroni)."""
    z = float64(z)
    if isinstance(q, dist.MultivariateNormal):
        z = np.linalg.solve(float64(q.cholesky), (z - float64(q.mean))[..., None])[..., 0]
        cdf = st.norm.cdf(z)
    elif isinstance(q, dist.Dirichlet):
        a = np.exp(float64(q.log_concentration))
        cdf = st.beta(a, a.sum(-1, keepdims=True) - a).cdf(z)
    elif isinstance(q, dist.ExpConcrete):
        return _chi_square(dist.Categorical(q.logits), float64(z == z.max(-1, keepdims=True)))
    elif isinstance(q, dist.Bernoulli | dist.Categorical | dist.DiscretizedLogistic):
        return _chi_square(q, z)
    else:
        cdf = frozen(q).cdf(z)
    columns = cdf.reshape(len(z), -1).T
    return len(columns) * min(st.kstest(column, "uniform").pvalue for column in columns)


def _chi_square(q, z):
    if isinstance(q, dist.Bernoulli):
        z, p = np.stack([1 - z, z], axis=-1), np.stack([expit(-float64(q.logits)), expit(float64(q.logits))], axis=-1)
    elif isinstance(q, dist.Categorical):
        p = np.exp(float64(q.logits))
        p = p / p.sum(-1, keepdims=True)
    else:
        grid = np.arange(LEVELS) / (LEVELS - 1)
        wide = jax.tree.map(lambda leaf: leaf[..., None, None], q)  # every pixel as a distribution of its own
        p = np.exp(scipy_log_prob(wide, grid[:, None]))  # [B, D, levels]
        z = np.round(z[..., None] * (LEVELS - 1)) == np.arange(LEVELS)
    observed, expected = z.sum(0).reshape(BATCH * DIM, -1), len(z) * p.reshape(BATCH * DIM, -1)
    tests = []
    for o, e in zip(observed, expected, strict=True):
        rare = e < 5  # pooled, as the chi-square approximation asks
        pool = lambda counts, rare=rare: np.append(counts[~rare], counts[rare].sum())
        o, e = pool(o), pool(e)
        keep = e > 0
        tests.append(st.chisquare(o[keep], e[keep] * o[keep].sum() / e[keep].sum()).pvalue)
    return len(tests) * min(tests)


@pytest.mark.parametrize("name", FAMILIES)
def test_sample_carries_no_gradient(name):
    # Compiled, so that a gradient that is zero as a formula costs no sample; rsample's are tested below.
    gradient = jax.jit(jax.grad(lambda q: jnp.sum(jnp.sin(q.sample(jax.random.key(0), 3)))))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(gradient(MEMBERS[name][0]))))


def test_samples_are_of_the_factor_that_the_density_takes():
    """And not of one that an accelerator has rounded."""
    q, eps = MEMBERS["MultivariateNormal"][0], jnp.zeros((3, BATCH, DIM))
    program = str(jax.make_jaxpr(q.from_noise)(eps))
    assert program.count("dot_general[") == program.count("HIGHEST,") == 1, program


@pytest.mark.parametrize("factor", [[[0.8, 0.6], [0.0, -1.1]], [[-0.8, 0.0], [0.5, 1.1]]], ids=["upper", "negative"])
def test_any_factor_has_the_density_of_its_samples(factor):
    """What stands above the diagonal is not read, and signs on the diagonal do not matter."""
    q = dist.MultivariateNormal(np.float32([0.3, -0.2]), np.float32(factor))
    p = dist.MultivariateNormal(np.float32([0.3, -0.2]), np.float32([[0.7, 0], [0.2, 0.8]]))
    z = np.asarray(jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 40_000))
    lower = np.tril(float64(factor))
    log_p, log_q = jax.device_get(jax.jit(lambda z: (p.log_prob(z), q.log_prob(z)))(z))
    np.testing.assert_allclose(log_q[:9], st.multivariate_normal(q.mean, lower @ lower.T).logpdf(z[:9]), 1e-4)
    score, error = z_score(np.exp(float64(log_p) - float64(log_q)), 1.0)
    assert (score < 4.5, error < 0.02) == (True, True)


def test_categorical_samples_are_one_hot():
    q = MEMBERS["Categorical"][0]
    z = ask("Categorical")["z"][:500]
    assert z.shape == (500, BATCH, DIM, CLASSES)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(-1), 1)
    np.testing.assert_allclose(q.mean.sum(-1), 1, rtol=1e-6)


def test_a_bit_that_is_rarer_than_floats_tell_does_not_happen(monkeypatch):
    """At a logit of -30, 1e-13: not even where all uniform numbers are the least, or all exponential ones far apart."""
    q = dist.Bernoulli(np.float32([-30.0, 30.0]))
    relaxed = dist.BinaryConcrete(q.logits, temperature=0.5)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    hard, soft = jax.jit(lambda key: (q.sample(key, 1), relaxed.sample(key, 1)))(jax.random.key(0))
    np.testing.assert_array_equal(hard, [[0, 1]])
    np.testing.assert_allclose(soft, 2 * (st.logistic.ppf(2.0**-24) + q.logits[None]), rtol=1e-6)
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: jnp.array([[-99.0, 99.0], [99.0, -99.0]]))
    opposed = jax.jit(lambda key: opposed_samples(key, q, 2))(jax.random.key(0))
    np.testing.assert_array_equal(opposed, [[0, 1], [0, 1]])
