"""Every family at the ends of its range in float32, against 60-digit arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit

from tests.helpers import sixty_digits as exact
from tests.helpers.families import (
    LEVELS,
    MEMBERS,
    ask,
    float64,
)
from vae import distributions as dist
from vae.distributions.special import log_gamma_draws, softplus

INF = np.inf
LOGS = (-80, -20, -5, 0, 1, 2, 5, 10, 12, 20, 40, 80)

# Of each family: how to build it, the exact density, the length of its event, and rows of parameters and a sample.
DENSITIES = {
    "Normal": (
        dist.Normal,
        exact.normal,
        1,
        [[0, l, 1.5 * np.exp(l / 2)] for l in (-160, -80, 0, 80, 160)] + [[1e30, 0, 1e30], [3, -100, 3]],
    ),
    "Laplace": (
        dist.Laplace,
        exact.laplace,
        1,
        [[0, l, t * np.exp(l)] for l in (-80, -45, 0, 45, 80) for t in (-20, 1.5)],
    ),
    "StudentT": (
        dist.StudentT,
        exact.student_t,
        1,
        [[0, 0, d, t] for d in (*LOGS, 14, 16) for t in (0.01, 0.5, 1.5, 30)]
        + [[0, l, 2, 0.5 * np.exp(l)] for l in (-80, -45, 45, 80)]
        + [[1, 0, d, 1e30] for d in (-20, 0, 2)],
    ),
    "Gamma": (
        dist.Gamma,
        exact.gamma,
        1,
        [[l, l, 1] for l in LOGS]
        + [[l, l, 1 + 2 * np.exp(-l / 2)] for l in (0, 1.5, 2, 5, 10, 12)]
        + [[l, 0, 1e-30] for l in (-80, -20, -2, 0)]
        + [[12, 0, np.exp(12) + 500], [0, -60, 1e26], [0, 60, 1e-26], [2, 0, 100]],
    ),
    "Beta": (
        dist.Beta,
        exact.beta,
        1,
        [[l, l, 0.5] for l in LOGS]
        + [[12, 12, 0.501], [5, 2, 0.9], [-5, 12, 1e-6], [-5, 12, 1e-3], [12, -5, 0.999]]
        + [[0, 0, 1e-37], [0, 0, 1 - 6e-8], [-3, -3, 1e-37], [20, 0, 1 - 6e-8], [40, 20, 1 - 6e-8]],
    ),
    "Dirichlet": (
        dist.Dirichlet,
        exact.dirichlet,
        3,
        [[l, l, l, 1 / 3, 1 / 3, 1 / 3] for l in LOGS]
        + [[-3, 0, 5, 1e-6, 0.01, 0.989999], [2, 12, 12, 1e-5, 0.5, 0.49999], [-80, 0, 12, 1e-30, 1e-5, 0.99999]],
    ),
    "MultivariateNormal": (  # of one dimension; a factor may be negative
        lambda mean, factor: dist.MultivariateNormal(mean, factor[..., None]),
        lambda mean, factor, z: exact.normal(mean, 2 * exact.log(abs(factor)), z),
        1,
        [[0, sign * np.exp(l), 1.5 * np.exp(l)] for l in (-60, 0, 60) for sign in (1, -1)],
    ),
    "Bernoulli": (
        dist.Bernoulli,
        exact.bernoulli,
        1,
        [[l, z] for l in (-1e30, -100, 0, 1, 100, 1e30) for z in (0, 1)] + [[INF, 1], [-INF, 0]],
    ),
    "Categorical": (
        lambda logits: dist.Categorical(logits[:, None]),
        exact.categorical,
        3,
        [[0.3, -0.7, -INF, 1, 0, 0], [0.3, -0.7, -INF, 0, 1, 0], [-INF, 2, -INF, 0, 1, 0], [1e30, 0, -1e30, 1, 0, 0]]
        + [[100, 0, -100, 0, 0, 1]],
    ),
    "BinaryConcrete": (
        lambda logits: dist.BinaryConcrete(logits, 0.5),
        exact.binary_concrete,
        1,
        [[l, z] for l in (-1e4, 0, 1e4) for z in (-1e4, -30, 0, 30, 1e4)] + [[1e30, 2e30], [1e30, 0]],
    ),
    "ExpConcrete": (
        lambda logits: dist.ExpConcrete(logits[:, None], 0.5),
        exact.exp_concrete,
        3,
        [[0, 0, 0, -1, -2, -1], [1e4, 0, -1e4, 0, -2e4, -4e4], [1e4, 0, -1e4, -1e4, 0, -1e4], [1, 2, 3, -90, 0, -90]],
    ),
    "DiscretizedLogistic": (
        dist.DiscretizedLogistic,
        exact.discretized_logistic,
        1,
        [[0.4, l, x] for l in (-7, 0, 12, 80) for x in (0, 102 / 255, 1)] + [[30, -3, 0.2], [-30, 0, 1]],
    ),
}
DISCRETE = ("Bernoulli", "Categorical", "DiscretizedLogistic")


@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_and_its_gradient_are_right_at_the_ends(name):
    family, density, width, rows = DENSITIES[name]
    rows = np.float32(rows)
    columns = np.split(rows, rows.shape[1] // width, axis=1)
    log_prob = lambda *columns: family(*columns[:-1]).log_prob(_event(name, columns[-1]))
    values, gradients = _values_and_gradients(log_prob, columns)
    for row, value, gradient in zip(rows, values, gradients, strict=True):
        true_value, true_gradient = exact.value_and_gradient(density, row)
        if name == "Dirichlet":  # only the gradient along the simplex is that of the density
            gradient, true_gradient = (_along_the_simplex(each, row[3:]) for each in (gradient, true_gradient))
        if name in DISCRETE:  # the density has no gradient in z
            gradient[-width:] = true_gradient[-width:] = 0
        _assert_near(value, true_value, row, true_gradient)
        np.testing.assert_allclose(gradient, true_gradient, rtol=3e-4, atol=5e-6)


def _values_and_gradients(function, columns):
    """The values of each row `[N]`, and the gradients in all of its numbers `[N, numbers]`."""

    @jax.jit
    def run(*columns):
        values, pullback = jax.vjp(function, *columns)
        return values, jnp.concatenate(pullback(jnp.ones_like(values)), axis=1)

    return map(np.array, run(*columns))  # arrays that can be written to


def _event(name, z):
    return z[:, None] if name in ("Categorical", "ExpConcrete") else z


def _along_the_simplex(gradient, z):
    return np.append(gradient[:3], z * (gradient[3:] - np.sum(z * gradient[3:]) / np.sum(z)))


def _assert_near(value, truth, row, gradient):
    """Within a few roundings of the value and of the inputs."""
    finite = np.isfinite(row)
    moved = np.abs(row[finite] * gradient[finite]) * (1 + np.abs(np.log(np.abs(row[finite]) + 1e-38)))
    assert abs(value - truth) <= 2e-6 * (1 + abs(truth)) + 1e-7 * moved.sum(), (row, value, truth)


# Of each family: how to build it from its parameters, the exact divergence, and rows of the parameters of q and p.
DIVERGENCES = {
    "Normal": (
        dist.Normal,
        exact.kl_normal,
        1,
        [[0, l, 0, l + 1] for l in (-160, 0, 160)] + [[1e-25, -110, 0, -109], [1e15, 0, 0, 0]],
    ),
    "Laplace": (
        dist.Laplace,
        exact.kl_laplace,
        1,
        [[0.5 * np.exp(l), l, 0, l + 1] for l in (-80, -45, 0, 45, 80)] + [[0, -80, 1, 0], [1, -80, 1, 0]],
    ),
    "Gamma": (
        dist.Gamma,
        exact.kl_gamma,
        1,
        [[l, l, 0, 0] for l in LOGS] + [[l, 0, l + 0.01, 0.01] for l in LOGS] + [[l, 3, 2, 1] for l in (-80, 12, 20)],
    ),
    "Beta": (
        dist.Beta,
        exact.kl_dirichlet,
        1,
        [[l, l, 0, 0] for l in LOGS] + [[l, 2, l + 0.01, 2] for l in LOGS],
    ),
    "Dirichlet": (
        dist.Dirichlet,
        exact.kl_dirichlet,
        3,
        [[l, l, l, 0, 0, 0] for l in LOGS]
        + [[12, 11, 2, 12.01, 11, 2], [-80, 0, 12, 0, 0, 0], [12, 0, -20, -20, 0, 12]],
    ),
    "Bernoulli": (
        dist.Bernoulli,
        exact.kl_bernoulli,
        1,
        [[l, p] for l in (-INF, -1e30, -100, -1, 30, 1e30, INF) for p in (0, 29)] + [[-1e30, 1e30], [-3, 1e4]],
    ),
    "Categorical": (
        lambda logits: dist.Categorical(logits[:, None]),
        exact.kl_categorical,
        3,
        [
            [0.3, -0.7, -INF, 0, 0, 0],
            [0.3, -0.7, -INF, 1, 0, -INF],
            [1e30, 0, 0, 0, 0, 0],
            [100, 0, -100, -100, 0, 100],
        ],
    ),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_divergence_and_its_gradient_are_right_at_the_ends(name):
    family, divergence, width, rows = DIVERGENCES[name]
    rows = np.float32(rows)
    columns = np.split(rows, rows.shape[1] // width, axis=1)
    of_columns = lambda *columns: dist.kl(family(*columns[: len(columns) // 2]), family(*columns[len(columns) // 2 :]))
    values, gradients = _values_and_gradients(of_columns, columns)
    for row, value, gradient in zip(rows, values, gradients, strict=True):
        true_value, true_gradient = exact.value_and_gradient(divergence, row)
        _assert_near(value, true_value, row, true_gradient)
        np.testing.assert_allclose(gradient, true_gradient, rtol=3e-4, atol=1e-6 * (1 + abs(true_value)))


def test_the_implicit_gradient_of_a_gamma_draw_is_right_at_the_ends():
    """Also where the draw underflows, and where its concentration is so large that the series of jax is only noise."""
    log_a = np.float32([-80, np.log(0.01), -1, 0, 3, 6.9, 7, 12, 14])
    draws = lambda log_a: log_gamma_draws(jax.random.key(0), log_a, 4)
    log_z, slopes = jax.jit(lambda log_a: jax.jvp(draws, (log_a,), (jnp.ones_like(log_a),)))(log_a)
    assert np.sum(log_z < -87) > 4
    truth = np.vectorize(lambda a, z: float(exact.log_gamma_slope(exact.mp.mpf(a), exact.mp.mpf(z))))
    np.testing.assert_allclose(slopes, truth(float64(log_a), float64(log_z)), rtol=1e-4)


def _bernoulli(x, l):
    return dist.Bernoulli(l[None]).log_prob(x[None])


def _naive(x, l):
    p = jax.nn.sigmoid(l)
    return x * jnp.log(p) + (1 - x) * jnp.log(1 - p)


def _derivatives_of_each(log_prob, x, l):
    """The value, both first and all four second derivatives `[N, 7]`, for N pairs of x and l."""
    every = lambda x, l: [transform(log_prob, (0, 1))(x, l) for transform in (jax.grad, jax.hessian)]
    row = lambda x, l: jnp.stack(jax.tree.leaves((log_prob(x, l), every(x, l))))
    return np.asarray(jax.jit(jax.vmap(row))(x, l))


_grid = lambda x, l: [axis.ravel() for axis in np.meshgrid(np.float32(x), np.float32(l))]


def test_bernoulli_is_finite_for_large_logits():
    x, l = _grid([0, 0.3, 1], [-1e4, -300, 300, 1e4])
    got = _derivatives_of_each(_bernoulli, x, l).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    expected = [x * l - np.maximum(l, 0), l, x - (l > 0), zero, one, one, zero]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Control: the naive formula is not finite here.
    naive = _derivatives_of_each(_naive, x, l)
    assert not np.isfinite(naive[:, 0]).all()


def test_bernoulli_derivatives_are_those_of_the_naive_formula():
    x, l = _grid([0, 0.25, 1], [-3, -0.5, 0, 0.7, 3])
    got, expected = (_derivatives_of_each(f, x, l) for f in (_bernoulli, _naive))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    # Forward mode, with a tangent in one argument alone.
    along = lambda l, tangent: jax.jvp(lambda l: _bernoulli(x[3], l), (l,), (tangent,))[1]
    tangent = jax.jit(along)(l[3], np.float32(2.0))
    np.testing.assert_allclose(tangent, 2 * (x[3] - expit(float64(l[3]))), rtol=1e-6)


def test_softplus_keeps_all_digits():
    x = np.concatenate([np.linspace(-85, 85, 100_001), [-1e-30, 0, 1e-30, 1e4]]).astype(np.float32)
    truth = np.logaddexp(0, float64(x))
    ulps = lambda softplus: np.max(np.abs(jax.jit(softplus)(x) - truth) / truth) * 2**23
    assert ulps(softplus) < 4
    assert ulps(lambda x: jnp.log(1 + jnp.exp(x))) > 1000  # the control
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(softplus)(float64(x)), truth, rtol=1e-14)
    np.testing.assert_array_equal(jax.jit(softplus)(np.float32([-INF, INF, np.nan])), [0, INF, np.nan])


def test_bernoulli_threshold_and_hard_samples():
    q = dist.Bernoulli(np.float32([-1e4, -1.0, 0.0, 2.0, 1e4]))
    threshold = jax.jit(q.threshold)
    u = np.float32(np.random.default_rng(11).uniform(size=(1000, 5)))
    np.testing.assert_array_equal(threshold(u), (float64(u) < float64(q.mean)).astype(np.float32))
    # Strict, so that a coin that never falls on 1 does not, and one that always does does.
    ends = np.float32([[0] * 5, [np.nextafter(np.float32(1), 0)] * 5])
    np.testing.assert_array_equal(threshold(ends), [[0, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    z = jax.jit(q.sample, static_argnums=1)(jax.random.key(12), 100)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_allclose(q.mean, expit(float64(q.logits)), rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(levels):
    mean = np.float32([-0.5, 0.0, 0.11, 0.5, 0.98, 1.0, 1.7])
    log_scale = np.float32([-7.0, -4.0, -1.0, 0.0, -3.0, -6.0, 3.0])
    grid = (np.arange(levels, dtype=np.float32) / np.float32(levels - 1))[:, None, None]
    q = dist.DiscretizedLogistic(mean[:, None], log_scale[:, None], levels)
    log_prob = float64(jax.jit(q.log_prob)(np.broadcast_to(grid, (levels, 7, 1))))
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=0), 1, rtol=2e-5)
    # The static field is no leaf, and survives what is done to the leaves.
    assert len(jax.tree.leaves(q)) == 2
    assert jax.tree.map(lambda leaf: 2 * leaf, q).levels == levels


def test_discretized_logistic_is_finite_in_the_far_tails():
    x = np.float32([0, 1 / 255, 0.5, 254 / 255, 1])[:, None]
    mean, log_scale = _grid([-30, 0.5, 30], [-12, -3, 12])
    log_prob = jax.vmap(lambda m, s, x: dist.DiscretizedLogistic(m, s).log_prob(x), in_axes=(0, 0, None))
    total = lambda m, s: jnp.sum(log_prob(m[:, None], s[:, None], x))
    assert np.all(np.isfinite(jax.jit(log_prob)(mean[:, None], log_scale[:, None], x)))
    assert np.all(np.isfinite(jax.jit(jax.grad(total, argnums=(0, 1)))(mean, log_scale)))
    # Far out the mass is that of an exponential tail: log p = -|x - m| / s + log(exp(half / s) - exp(-half / s)).
    q = dist.DiscretizedLogistic(np.float32([30.0]), np.float32([-3.0]))
    inverse, half = np.exp(3.0), 0.5 / 255
    truth = -29.8 * inverse + np.log(2 * np.sinh(half * inverse))
    np.testing.assert_allclose(jax.jit(q.log_prob)(np.float32([0.2])), truth, rtol=1e-5)


def test_discretized_logistic_samples_are_levels():
    q, z = MEMBERS["DiscretizedLogistic"][0], ask("DiscretizedLogistic")["z"] * (LEVELS - 1)
    np.testing.assert_allclose(z, np.round(z), atol=1e-5)
    assert (z.min(), z.max()) == (0, LEVELS - 1)
    assert getattr(q, "rsample", None) is None


@pytest.mark.parametrize("log_var", [-80.0, 0.0, 80.0])
def test_normal_at_the_ends_of_float32(log_var):
    scale = np.exp(0.5 * log_var)
    arguments = np.float32([[1.5 * scale], [0.0], [log_var]])
    log_prob = lambda z, mean, log_var: dist.Normal(mean, log_var).log_prob(z)
    value, grads = jax.jit(jax.value_and_grad(log_prob, argnums=(0, 1, 2)))(*arguments)
    np.testing.assert_allclose(value, st.norm(0, scale).logpdf(1.5 * scale), rtol=1e-5)
    expected = [-1.5 / scale, 1.5 / scale, 0.5 * (1.5**2 - 1)]
    np.testing.assert_allclose(np.ravel(grads), expected, rtol=1e-5)
    np.testing.assert_allclose(dist.Normal(*arguments[1:]).scale, scale, rtol=1e-5)


def test_normal_scale_is_half_of_log_var():
    q = dist.Normal(jnp.zeros(1), jnp.log(jnp.array([9.0])))
    np.testing.assert_allclose(q.from_noise(jnp.array([[2.0]])), [[6.0]], rtol=1e-6)  # not 18: exp(log_var) is 9


@pytest.mark.parametrize(
    "q",
    [
        dist.StudentT(np.float32([0]), np.float32([0]), np.float32([-80])),
        dist.Gamma(np.float32([80]), np.float32([-80])),
    ],
    ids=["StudentT", "Gamma"],
)
def test_samples_that_would_overflow_have_a_finite_density(q):
    draws = jax.jit(lambda q: (z := q.rsample(jax.random.key(0), 200), q.log_prob(z)))
    assert all(np.all(np.isfinite(leaf)) for leaf in draws(q))


# Beta is Dirichlet of two parts, and compiles for long.
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in ("Beta", dist.Beta) else [])


@pytest.mark.parametrize("family", [_slow(each) for each in [dist.Gamma, dist.Beta]])
def test_small_concentrations_are_finite(family):
    @jax.jit
    def program(small):
        q = family(small, small) if family is dist.Beta else family(small, jnp.zeros_like(small))

        def pathwise(q):
            z = q.rsample(jax.random.key(15), 10_000)
            log_prob = q.log_prob(z)
            return jnp.sum(jnp.mean(log_prob, axis=0)), (z, log_prob)

        grads, (z, log_prob) = jax.grad(pathwise, has_aux=True)(q)
        return z, log_prob, grads

    z, log_prob, grads = jax.device_get(program(np.log(np.float32([[1e-3, 1e-2], [0.05, 0.05]]))))
    assert np.min(z) > 0
    assert np.all(np.isfinite(log_prob))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    if family is dist.Gamma:  # above the floor, samples are those of the Gamma
        z = float64(z[:, 1, 0])
        assert st.kstest(z[z > 1e-30], lambda z: _truncated(z, 0.05)).pvalue > 1e-4


def _truncated(z, concentration):
    below = st.gamma.cdf(1e-30, concentration)
    return (st.gamma.cdf(z, concentration) - below) / (1 - below)
