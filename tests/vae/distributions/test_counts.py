"""Counts and grey levels against scipy, 60-digit arithmetic and sums over all values."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats as st

from tests.helpers.families import draw, z_score
from tests.helpers.random_models import float64
from vae import distributions as dist

LEVELS = 17
GRID = np.arange(LEVELS, dtype=np.float32)[:, None] / (LEVELS - 1)  # every grey level, as one pixel
COUNTS = np.arange(400, dtype=np.float32)[:, None]

# One pixel with two data in the batch; its possible values.
CASES = {
    "Poisson": (dist.Poisson(np.float32([[1.2], [3.1]])), COUNTS),
    "NegativeBinomial": (dist.NegativeBinomial(np.float32([[1.2], [2.5]]), np.float32([[0.3], [1.4]])), COUNTS),
    "GreyLevels": (dist.GreyLevels(draw(0, 2, 1, LEVELS, scale=1.0)), GRID),
    "DiscretizedLogisticMixture": (
        dist.DiscretizedLogisticMixture(
            draw(1, 2, 1, 3, scale=1.0), draw(2, 2, 1, 3, scale=0.2, shift=0.5), draw(3, 2, 1, 3, shift=-3.0), LEVELS
        ),
        GRID,
    ),
}


@functools.cache
def ask(name):
    q, values = CASES[name]
    program = jax.jit(lambda q: (q.log_prob(values[:, None]), q.mean, q.sample(jax.random.key(0), 20_000)))
    with jax.numpy_dtype_promotion("strict"):
        return [float64(answer) for answer in program(q)]


@pytest.mark.parametrize("name", CASES)
def test_the_probabilities_of_all_values_sum_to_one_and_give_the_samples(name):
    log_prob, mean, z = ask(name)  # [values, B], [B, 1], [K, B, 1]
    q, values = CASES[name]
    probabilities = np.exp(log_prob)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=2e-5)
    for b in (0, 1):
        seen = np.mean(np.abs(z[:, b] - values[:, 0]) < 1e-4, axis=0)
        assert seen.sum() == pytest.approx(1)  # no other values
        error = np.sqrt(probabilities[:, b] * (1 - probabilities[:, b]) / len(z)) + 1e-4
        assert np.max(np.abs(seen - probabilities[:, b]) / error) < 4.5
        assert np.max(np.abs(seen - probabilities[:, 1 - b]) / error) > 10  # the control: the other datum
    if name != "DiscretizedLogisticMixture":  # whose mean is that of the continuous mixture
        np.testing.assert_allclose(mean[:, 0], values[:, 0] @ probabilities, rtol=1e-4)
        assert z_score(z, mean)[0].max() < 4.5


def test_the_divergence_of_poissons_is_a_sum():
    q, p = dist.Poisson(np.float32([[1.2, -0.3]])), dist.Poisson(np.float32([[0.0, 0.8]]))
    counts, means = np.arange(60), [np.exp(float64(each.log_mean[0])) for each in (q, p)]
    log_q, log_p = (st.poisson.logpmf(counts[:, None], mean) for mean in means)
    np.testing.assert_allclose(jax.jit(dist.kl)(q, p), np.sum(np.exp(log_q) * (log_q - log_p)), rtol=1e-5)


def test_log_probs_are_scipys():
    mean = np.exp(float64([1.2, 3.1]))
    np.testing.assert_allclose(ask("Poisson")[0][:50], st.poisson(mean).logpmf(COUNTS[:50]), rtol=1e-5, atol=1e-5)
    mean, r = np.exp(float64([1.2, 2.5])), np.exp(float64([0.3, 1.4]))
    truth = st.nbinom(r, r / (r + mean)).logpmf(COUNTS[:50])
    np.testing.assert_allclose(ask("NegativeBinomial")[0][:50], truth, rtol=1e-5, atol=1e-5)

    q = CASES["DiscretizedLogisticMixture"][0]
    parts_of = lambda q: [dist.DiscretizedLogistic(q.means[..., m], q.log_scale[..., m], LEVELS) for m in range(3)]
    parts = float64(jax.jit(lambda q: jnp.stack([part.log_prob(GRID[:, None]) for part in parts_of(q)]))(q))
    weights = np.exp(float64(q.logits[:, 0])) / np.exp(float64(q.logits[:, 0])).sum(-1, keepdims=True)
    truth = np.log(np.einsum("mvb,bm->vb", np.exp(parts), weights))
    np.testing.assert_allclose(ask("DiscretizedLogisticMixture")[0], truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_counts_are_drawn_with_keys_of_every_generator(generator):
    q = dist.Poisson(np.float32([1.2, -1.0]))
    draw = jax.jit(lambda key: q.sample(key, 20_000))
    z = float64(draw(jax.random.key(0, impl=generator)))
    mean = np.exp(float64(q.log_mean))
    for moment, error in ((z.mean(0), np.sqrt(mean / len(z))), (z.var(0), mean * np.sqrt((2 + 1 / mean) / len(z)))):
        assert np.max(np.abs(moment - mean) / error) < 4.5
    assert np.any(z != draw(jax.random.key(1, impl=generator)))


def _poisson(log_mean, x):
    return x * log_mean - mpmath.exp(log_mean) - mpmath.loggamma(x + 1)


def _negative_binomial(log_mean, log_r, x):
    m, r = mpmath.exp(log_mean), mpmath.exp(log_r)
    choose = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
    return choose - r * mpmath.log1p(m / r) - x * mpmath.log1p(r / m)


ROWS = {
    "Poisson": (
        _poisson,
        [(-80, 0), (-80, 1), (-5, 3), (0, 1), (9.2, 9900), (9.2, 0), (13.8, 986000), (5, 1), (40, 7)],
    ),
    "NegativeBinomial": (
        _negative_binomial,
        [(0, r, x) for r in (-80, -5, 0, 5, 20, 80) for x in (0, 1, 4)]
        + [(9.2, r, x) for r in (-5, 0, 5, 12, 30) for x in (0, 9900, 12000)]
        + [(-80, 0, 1), (-5, 2, 3), (40, 0, 5)],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_counts_are_right_in_float32_at_the_ends(name):
    density, rows = ROWS[name]
    family = getattr(dist, name)
    columns = [np.float32(column)[:, None] for column in zip(*rows, strict=True)]
    log_prob = lambda *parameters: jnp.sum(family(*parameters).log_prob(columns[-1]))
    each = jax.jit(lambda *parameters: family(*parameters).log_prob(columns[-1]))(*columns[:-1])
    gradients = jax.jit(jax.grad(log_prob, argnums=tuple(range(len(columns) - 1))))(*columns[:-1])
    with mpmath.workdps(60):
        for i, row in enumerate(np.float32(rows).tolist()):
            row = [mpmath.mpf(number) for number in row]
            assert float(each[i]) == pytest.approx(float(density(*row)), rel=2e-5, abs=2e-3), row
            for argument, gradient in enumerate(gradients):
                at = lambda value, row=row, argument=argument: density(*row[:argument], value, *row[argument + 1 :])
                truth = float(mpmath.diff(at, row[argument]))
                assert float(gradient[i, 0]) == pytest.approx(truth, rel=2e-3, abs=2e-2), (row, argument)


@pytest.mark.parametrize("name", ROWS)
def test_relaxed_counts_have_the_density_of_the_gamma_functions(name):
    density, parameters = ROWS[name][0], {"Poisson": (0.3,), "NegativeBinomial": (0.3, 1.2)}[name]
    q = getattr(dist, name)(*(np.float32([each]) for each in parameters))
    x = np.float32([0.01, 0.3, 0.5, 0.99, 1.5])[:, None]
    values, slopes = jax.jit(lambda x: (q.log_prob(x), jax.grad(lambda x: jnp.sum(q.log_prob(x)))(x)))(x)
    with mpmath.workdps(40):
        for i, at in enumerate(x[:, 0].tolist()):
            along = lambda x: density(*map(mpmath.mpf, parameters), x)
            assert float(values[i]) == pytest.approx(float(along(at)), rel=1e-5, abs=1e-5)
            assert float(slopes[i, 0]) == pytest.approx(float(mpmath.diff(along, at)), rel=1e-3)


OUTSIDE = {
    **{name: (CASES[name][0], [[-1.0], [-0.5]]) for name in ("Poisson", "NegativeBinomial")},
    **{name: (CASES[name][0], [[-0.2], [1.2]]) for name in ("GreyLevels", "DiscretizedLogisticMixture")},
    "DiscretizedLogistic": (dist.DiscretizedLogistic(np.zeros((2, 1), np.float32), 0.0), [[-0.2], [1.2]]),
    "Gamma": (dist.Gamma(np.zeros((2, 1), np.float32), 0.0), [[-0.2]]),
    "Beta": (dist.Beta(np.zeros((2, 1), np.float32), 0.0), [[-0.2], [1.2]]),
    "Dirichlet": (dist.Dirichlet(np.zeros((2, 2), np.float32)), [[-0.2, 1.2], [1.2, -0.2]]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_outside_of_the_support_are_impossible(name):
    q, values = OUTSIDE[name]
    z = np.float32(values)[:, None]
    total = lambda q, z: jnp.sum(q.log_prob(z))
    log_prob, gradient = jax.jit(lambda q, z: (q.log_prob(z), jax.grad(total, (0, 1))(q, z)))(q, z)
    np.testing.assert_array_equal(log_prob, np.full(log_prob.shape, -np.inf))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("mean", [1e3, 1e6, 1e8, 3e10])
def test_large_counts_have_the_spread_of_their_distribution(mean):
    """Draws of jax.random.poisson are 21 % too wide at 1e8, and end at 2^31."""
    draws = 60_000
    q = dist.Poisson(np.log(np.float32([mean]))), dist.NegativeBinomial(*np.log(np.float32([[mean], [3.0]])))
    counts, mixed = jax.jit(lambda q: [each.sample(jax.random.key(1), draws)[:, 0] for each in q])(q)
    exact_mean = float64(q[0].mean[0])
    standardized = (float64(counts) - exact_mean) / np.sqrt(exact_mean)
    ends = (np.arange(-40, 41) / 10 * np.sqrt(exact_mean) + exact_mean).round()
    truth = st.poisson(exact_mean).cdf(ends) if mean < 1e9 else st.norm.cdf(np.arange(-40, 41) / 10)
    seen = np.searchsorted(np.sort(float64(counts)), ends, side="right") / draws
    assert np.abs(seen - truth).max() < 2.2 / np.sqrt(draws)  # Kolmogorov: probability 1e-4
    assert abs(standardized.std() - 1) < 4.5 / np.sqrt(2 * draws)
    r = st.gamma(3, scale=exact_mean / 3)  # the mean of the counts; their own spread is small beside it
    if mean > 1e6:
        assert st.kstest(float64(mixed), r.cdf).pvalue > 1e-4


def test_a_large_count_is_the_quantile_of_its_noise():
    """Up to one count, as the first terms of the Cornish-Fisher expansion are."""
    key, mean = jax.random.key(0), 3e4
    counts = jax.jit(lambda key: dist.Poisson(jnp.full(1, np.log(mean))).sample(key, 4000))(key)
    eps = np.float64(jax.random.normal(jax.random.fold_in(key, 1), counts.shape))
    exact = st.poisson.ppf(st.norm.cdf(eps), float(jnp.exp(jnp.float32(np.log(mean)))))
    assert np.abs(eps).max() > 3  # where the term of the second order is above one count
    assert np.abs(counts - exact).max() <= 1


def test_a_textbook_density_in_float32_fails_where_ours_is_right():
    """The control of the test above."""
    log_mean, x = np.float32(13.8), np.float32(986000)
    textbook_density = lambda log_mean, x: x * log_mean - jnp.exp(log_mean) - jax.scipy.special.gammaln(x + 1)
    our_density = lambda log_mean, x: dist.Poisson(log_mean[None]).log_prob(x[None])
    textbook, ours = jax.jit(lambda *at: (textbook_density(*at), our_density(*at)))(log_mean, x)
    truth = float(_poisson(mpmath.mpf(float(log_mean)), mpmath.mpf(986000)))
    assert abs(float(textbook) - truth) > 0.1
    assert abs(float(ours) - truth) < 2e-3
