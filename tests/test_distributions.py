"""Every family against scipy, against its own samples, against quadrature, and at the ends of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit

from vae import distributions as dist

BATCH, DIM, CLASSES, LEVELS = 2, 3, 4, 17
f64 = lambda array: np.asarray(array, np.float64)


def _draw(seed, *shape, scale=0.4, shift=0.0):
    return jnp.asarray(shift + scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _cholesky(seed, scale):
    lower = np.tril(_draw(seed, BATCH, DIM, DIM), -1) + scale * np.eye(DIM)
    return jnp.asarray(lower, jnp.float32)


# Two members of each family. The second is nearer to the first than its tails are, so that p / q has a finite variance.
MEMBERS = {
    "Normal": (
        dist.Normal(_draw(0, BATCH, DIM), _draw(1, BATCH, DIM, scale=0.2)),
        dist.Normal(_draw(2, BATCH, DIM), _draw(3, BATCH, DIM, scale=0.2, shift=-0.5)),
    ),
    "Laplace": (
        dist.Laplace(_draw(4, BATCH, DIM), _draw(5, BATCH, DIM, scale=0.2)),
        dist.Laplace(_draw(6, BATCH, DIM), _draw(7, BATCH, DIM, scale=0.2, shift=-0.4)),
    ),
    "StudentT": (
        dist.StudentT(_draw(8, BATCH, DIM), _draw(9, BATCH, DIM), _draw(10, BATCH, DIM, scale=0.2, shift=1.5)),
        dist.StudentT(_draw(11, BATCH, DIM), _draw(12, BATCH, DIM), _draw(13, BATCH, DIM, scale=0.2, shift=2.0)),
    ),
    "MultivariateNormal": (
        dist.MultivariateNormal(_draw(14, BATCH, DIM), _cholesky(15, 1.2)),
        dist.MultivariateNormal(_draw(16, BATCH, DIM), _cholesky(17, 0.9)),
    ),
    "Gamma": (
        dist.Gamma(_draw(18, BATCH, DIM, shift=0.5), _draw(19, BATCH, DIM)),
        dist.Gamma(_draw(20, BATCH, DIM, shift=0.9), _draw(21, BATCH, DIM, shift=0.6)),
    ),
    "Beta": (
        dist.Beta(_draw(22, BATCH, DIM, shift=0.3), _draw(23, BATCH, DIM, shift=0.1)),
        dist.Beta(_draw(24, BATCH, DIM, shift=0.8), _draw(25, BATCH, DIM, shift=0.6)),
    ),
    "Dirichlet": (
        dist.Dirichlet(_draw(26, BATCH, DIM, shift=0.2)),
        dist.Dirichlet(_draw(27, BATCH, DIM, shift=0.7)),
    ),
    "Bernoulli": (dist.Bernoulli(_draw(28, BATCH, DIM, scale=1)), dist.Bernoulli(_draw(29, BATCH, DIM, scale=1))),
    "Categorical": (
        dist.Categorical(_draw(30, BATCH, DIM, CLASSES, scale=0.7)),
        dist.Categorical(_draw(31, BATCH, DIM, CLASSES, scale=0.7)),
    ),
    "DiscretizedLogistic": (
        dist.DiscretizedLogistic(_draw(32, BATCH, DIM, scale=0.2, shift=0.5), _draw(33, BATCH, DIM, shift=-2), LEVELS),
        dist.DiscretizedLogistic(
            _draw(34, BATCH, DIM, scale=0.1, shift=0.5), _draw(35, BATCH, DIM, shift=-2.3), LEVELS
        ),
    ),
}
FAMILIES = sorted(MEMBERS)
REPARAMETERIZABLE = [name for name in FAMILIES if getattr(MEMBERS[name][0], "rsample", None) is not None]
WITH_KL = ["Normal", "MultivariateNormal", "Laplace", "Gamma", "Beta", "Dirichlet", "Bernoulli", "Categorical"]


def _frozen(q):
    """The family of scipy that a factorized q is, with q's parameters in float64."""
    leaf = {name: f64(getattr(q, name)) for name in type(q).__dataclass_fields__}
    match type(q).__name__:
        case "Normal":
            return st.norm(leaf["mean"], np.exp(0.5 * leaf["log_var"]))
        case "Laplace":
            return st.laplace(leaf["mean"], np.exp(leaf["log_scale"]))
        case "StudentT":
            return st.t(np.exp(leaf["log_df"]), leaf["mean"], np.exp(leaf["log_scale"]))
        case "Gamma":
            return st.gamma(np.exp(leaf["log_concentration"]), scale=np.exp(-leaf["log_rate"]))
        case "Beta":
            return st.beta(np.exp(leaf["log_alpha"]), np.exp(leaf["log_beta"]))
        case "Bernoulli":
            return st.bernoulli(expit(leaf["logits"]))


def _scipy_log_prob(q, z):
    """log q(z), `[K, *batch]`, in float64 by scipy."""
    z = f64(z)
    match q:
        case dist.MultivariateNormal():
            covariance = f64(q.cholesky) @ np.swapaxes(f64(q.cholesky), -1, -2)
            columns = [st.multivariate_normal(f64(q.mean[b]), covariance[b]).logpdf(z[:, b]) for b in range(BATCH)]
            return np.stack(columns, axis=1)
        case dist.Dirichlet():
            concentration, z = np.exp(f64(q.log_concentration)), z / z.sum(-1, keepdims=True)
            return np.stack([st.dirichlet(concentration[b]).logpdf(z[:, b].T) for b in range(BATCH)], axis=1)
        case dist.Categorical():
            p = np.exp(f64(q.logits))
            return st.multinomial(1, p / p.sum(-1, keepdims=True)).logpmf(z).sum(-1)
        case dist.DiscretizedLogistic():
            continuous, half = st.logistic(f64(q.mean), np.exp(f64(q.log_scale))), 0.5 / (q.levels - 1)
            upper = np.where(z > 1 - half, 1, continuous.cdf(z + half))
            return np.log(upper - np.where(z < half, 0, continuous.cdf(z - half))).sum(-1)
        case dist.Bernoulli():
            return _frozen(q).logpmf(z).sum(-1)
    return _frozen(q).logpdf(z).sum(-1)


def _z_score(draws, truth):
    """Standard errors between the mean of `draws` over axis 0 and the truth, and that standard error."""
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return np.abs(draws.mean(axis=0) - truth) / error, error


@pytest.mark.parametrize("name", FAMILIES)
def test_log_prob_is_scipys(name):
    q, other = MEMBERS[name]
    z = q.sample(jax.random.key(0), 200)
    for member in (q, other):
        assert member.batch_shape == (BATCH,)
        np.testing.assert_allclose(member.log_prob(z), _scipy_log_prob(member, z), rtol=2e-5, atol=2e-5)
    # Control: the two members are two distributions.
    assert np.abs(q.log_prob(z) - _scipy_log_prob(other, z)).mean() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_of_the_density(name):
    q, p = MEMBERS[name]
    z = q.sample(jax.random.key(1), 40_000)
    assert z.dtype == jnp.float32
    weight = lambda p, q: np.exp(f64(p.log_prob(z)) - f64(q.log_prob(z)))  # [K, B]
    scores, error = _z_score(weight(p, q), 1.0)  # E_q p(z) / q(z) = 1
    assert scores.max() < 4.5
    assert error.max() < 0.02
    # Control: the same check on samples that are not q's.
    assert _z_score(weight(q, p), 1.0)[0].max() > 10


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_pass_kolmogorov_smirnov_or_chi_square(name):
    q, other = MEMBERS[name]
    z = q.sample(jax.random.key(2), 10_000)
    assert _p_value(q, z) > 1e-4
    assert _p_value(other, z) < 1e-10  # the control


def _p_value(q, z):
    """The smallest p-value over all coordinates of the batch, times their number (Bonferroni)."""
    z = f64(z)
    if isinstance(q, dist.MultivariateNormal):
        z = np.linalg.solve(f64(q.cholesky), (z - f64(q.mean))[..., None])[..., 0]
        cdf = st.norm.cdf(z)
    elif isinstance(q, dist.Dirichlet):
        a = np.exp(f64(q.log_concentration))
        cdf = st.beta(a, a.sum(-1, keepdims=True) - a).cdf(z)
    elif isinstance(q, dist.Bernoulli | dist.Categorical | dist.DiscretizedLogistic):
        return _chi_square(q, z)
    else:
        cdf = _frozen(q).cdf(z)
    columns = cdf.reshape(len(z), -1).T
    return len(columns) * min(st.kstest(column, "uniform").pvalue for column in columns)


def _chi_square(q, z):
    if isinstance(q, dist.Bernoulli):
        z, p = np.stack([1 - z, z], axis=-1), np.stack([expit(-f64(q.logits)), expit(f64(q.logits))], axis=-1)
    elif isinstance(q, dist.Categorical):
        p = np.exp(f64(q.logits))
        p = p / p.sum(-1, keepdims=True)
    else:
        grid = np.arange(LEVELS) / (LEVELS - 1)
        wide = jax.tree.map(lambda leaf: leaf[..., None, None], q)  # every pixel as a distribution of its own
        p = np.exp(f64(wide.log_prob(jnp.asarray(grid, jnp.float32)[:, None])))  # [B, D, levels]
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
    q = MEMBERS[name][0]
    total = lambda q, draw: jnp.sum(jnp.sin(getattr(q, draw)(jax.random.key(0), 3)))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(jax.grad(total)(q, "sample")))
    if name in REPARAMETERIZABLE:  # the control
        assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(_lower(jax.grad(total)(q, "rsample"))))


def _lower(q):
    """The leaves of q that are free: of a Cholesky factor the lower triangle, whose zeros above have a gradient too."""
    return q.mean if isinstance(q, dist.MultivariateNormal) else q


def _sine(z):
    """A smooth integrand with a bounded derivative, so that heavy tails have a finite variance."""
    return np.sin(2 * z) + np.cos(z) if isinstance(z, np.ndarray | float) else jnp.sin(2 * z) + jnp.cos(z)


ONE_DIMENSIONAL = {
    "Normal": dist.Normal(jnp.array([0.4]), jnp.array([-0.5])),
    "Laplace": dist.Laplace(jnp.array([0.4]), jnp.array([-0.5])),
    "StudentT": dist.StudentT(jnp.array([0.4]), jnp.array([-0.5]), jnp.log(jnp.array([3.5]))),
    "Gamma": dist.Gamma(jnp.array([0.3]), jnp.array([0.4])),
    "Gamma below 1": dist.Gamma(jnp.array([-1.0]), jnp.array([-0.4])),
    "Beta": dist.Beta(jnp.array([0.5]), jnp.array([-0.3])),
}


def _expectation(q):
    """E sin(2 z) + cos(z) of a one-dimensional q, by adaptive quadrature in the variable v, z = F^-1(F_normal(v))."""
    family = _frozen(q)
    v = np.linspace(-8.5, 8.5, 20_001)
    # Both tails by the function that is accurate there; the integrand is smooth, so the trapezoidal rule is exact.
    z = np.where(v < 0, family.ppf(st.norm.cdf(v)), family.isf(st.norm.sf(v)))
    return np.sum(_sine(z) * st.norm.pdf(v)) * (v[1] - v[0])


def _finite_differences(function, q, h=1e-4):
    """d function / d q in float64, every leaf an array of its shape."""
    leaves, tree = jax.tree.flatten(jax.tree.map(f64, q))
    out = []
    for i, leaf in enumerate(leaves):
        gradient = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            value = []
            for sign in (1, -1):
                shifted = leaf.copy()
                shifted[index] += sign * h
                value.append(function(jax.tree.unflatten(tree, [*leaves[:i], shifted, *leaves[i + 1 :]])))
            gradient[index] = (value[0] - value[1]) / (2 * h)
        out.append(gradient)
    return jax.tree.unflatten(tree, out)


def _pathwise(q, integrand, key, draws):
    """One gradient of integrand(z) in q for each draw: every leaf `[draws, *leaf]`, by one backward pass."""
    tiled = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (draws, *leaf.shape)), q)
    return jax.jit(jax.grad(lambda q: jnp.sum(integrand(q.rsample(key, 1)))))(tiled)


def _assert_gradients(draws, truth, largest_error):
    for estimate, exact in zip(jax.tree.leaves(draws), jax.tree.leaves(truth), strict=True):
        scores, error = _z_score(f64(estimate), exact)
        assert np.all(scores < 4.5), (scores, exact)
        assert error.max() < largest_error * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_rsample_gradient_is_that_of_the_expectation(name):
    q = ONE_DIMENSIONAL[name]
    draws = _pathwise(q, _sine, jax.random.key(3), 100_000)
    truth = _finite_differences(_expectation, q)
    assert all(np.abs(leaf).min() > 0.01 for leaf in jax.tree.leaves(truth))  # nothing is tested where all is 0
    _assert_gradients(draws, truth, 0.01)
    # Control: a gradient that is wrong by a tenth.
    wrong = jax.tree.map(lambda leaf: leaf + 0.1 * np.abs(leaf) + 0.02, truth)
    with pytest.raises(AssertionError):
        _assert_gradients(draws, wrong, 0.01)


def test_rsample_gradient_of_dirichlet():
    q = dist.Dirichlet(jnp.array([0.5, -0.4, 0.1]))
    c = np.array([1.0, -2.0, 0.5], np.float32)

    def expectation(q):
        a = np.exp(q.log_concentration)
        marginals = zip(c, a, a.sum() - a, strict=True)
        return sum(c * st.beta(a, b).expect(lambda z: np.sin(3 * z)) for c, a, b in marginals)

    draws = _pathwise(q, lambda z: jnp.sum(c * jnp.sin(3 * z), axis=-1), jax.random.key(4), 100_000)
    _assert_gradients(draws, _finite_differences(expectation, q), 0.01)


def test_rsample_gradient_of_multivariate_normal():
    q = dist.MultivariateNormal(jnp.array([0.4, -0.7]), jnp.array([[0.8, 0.0], [0.5, 1.1]]))

    def expectation(q):
        covariance = q.cholesky @ q.cholesky.T
        sines = np.exp(-0.5 * np.diag(covariance)) * np.sin(q.mean)
        return np.sum(sines) + covariance[0, 1] + q.mean[0] * q.mean[1]

    integrand = lambda z: jnp.sum(jnp.sin(z), axis=-1) + z[..., 0] * z[..., 1]
    draws = _pathwise(q, integrand, jax.random.key(5), 100_000)
    _assert_gradients(draws, _finite_differences(expectation, q), 0.01)


@pytest.mark.parametrize("name", ["Normal", "Laplace", "StudentT", "MultivariateNormal"])
def test_from_noise_is_the_reparameterization_trick(name):
    q = MEMBERS[name][0]
    eps = q.noise(jax.random.key(6), (5, *q.mean.shape), jnp.float32)
    matrix = q.cholesky if name == "MultivariateNormal" else jnp.vectorize(jnp.diag, signature="(n)->(n,n)")(q.scale)
    expected = f64(q.mean) + (f64(matrix) @ f64(eps)[..., None])[..., 0]
    np.testing.assert_allclose(q.from_noise(eps), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(q.rsample(jax.random.key(6), 5), q.from_noise(eps))
    np.testing.assert_array_equal(q.rsample(jax.random.key(6), 5), q.sample(jax.random.key(6), 5))


@pytest.mark.parametrize("name", FAMILIES)
def test_is_a_pytree(name):
    q = MEMBERS[name][0]
    z = q.sample(jax.random.key(7), 4)
    # vmap over the batch is a loop over it.
    mapped = jax.vmap(lambda q, z: q.log_prob(z), in_axes=(0, 1), out_axes=1)(q, z)
    loop = [jax.tree.map(lambda leaf, b=b: leaf[b], q).log_prob(z[:, b]) for b in range(BATCH)]
    np.testing.assert_allclose(mapped, np.stack(loop, axis=1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mapped, jax.jit(lambda q, z: q.log_prob(z))(q, z), rtol=1e-6, atol=1e-6)
    # stop_gradient freezes q and leaves z.
    frozen = lambda q, z: jnp.sum(jax.lax.stop_gradient(q).log_prob(z))
    in_q, in_z = jax.grad(frozen, argnums=(0, 1))(q, z)
    assert type(in_q) is type(q)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(in_q))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(jax.grad(lambda q: jnp.sum(q.log_prob(z)))(q)))
    if name not in ("DiscretizedLogistic",):
        assert np.any(in_z != 0)
    # Sampling in a loop is sampling in a batch of keys.
    keys = jax.random.split(jax.random.key(8), BATCH)
    rows = [jax.tree.map(lambda leaf, b=b: leaf[b], q).sample(keys[b], 2) for b in range(BATCH)]
    np.testing.assert_allclose(jax.vmap(lambda q, k: q.sample(k, 2))(q, keys), np.stack(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_is_the_mean_log_ratio(name):
    q, p = MEMBERS[name]
    if name == "MultivariateNormal":
        p = dist.Normal(p.mean, _draw(40, BATCH, DIM, shift=0.3))
    z = q.sample(jax.random.key(9), 100_000)
    ratio = f64(q.log_prob(z)) - f64(p.log_prob(z))
    exact = f64(dist.kl(q, p))
    assert exact.shape == (BATCH,)
    scores, error = _z_score(ratio, exact)
    assert scores.max() < 4.5
    assert np.all(error < 0.01 * np.maximum(exact, 0.3))
    if name != "MultivariateNormal":  # the control: the other direction
        assert _z_score(ratio, f64(dist.kl(p, q)))[0].max() > 10
    # A prior without a batch broadcasts against a posterior with one.
    first = jax.tree.map(lambda leaf: leaf[0], p)
    spread = jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * BATCH), p)
    np.testing.assert_allclose(dist.kl(q, first), dist.kl(q, spread), rtol=1e-6)


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_to_itself_is_zero_and_a_minimum(name):
    q = MEMBERS[name][0]
    p = q
    if name == "MultivariateNormal":
        p = dist.Normal(q.mean, _draw(41, BATCH, DIM))
        q = dist.MultivariateNormal(p.mean, p.scale[..., None] * jnp.eye(DIM))
    value, grads = jax.value_and_grad(lambda q: jnp.sum(dist.kl(q, p)))(q)
    np.testing.assert_allclose(value, 0, atol=2e-6)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_allclose(leaf, 0, atol=5e-6)


@pytest.mark.parametrize(("q", "p"), [("StudentT", "Normal"), ("Laplace", "Normal"), ("Normal", "MultivariateNormal")])
def test_kl_without_a_closed_form_names_both(q, p):
    with pytest.raises(NotImplementedError, match=rf"KL\({q} \|\| {p}\).*elbo"):
        dist.kl(MEMBERS[q][0], MEMBERS[p][0])


def _everything(q, p):
    """One number that everything a family can do goes into."""
    key = jax.random.key(10)
    total = jnp.sum(q.log_prob(q.sample(key, 2)))
    if getattr(q, "rsample", None) is not None:
        total += jnp.sum(q.log_prob(q.rsample(key, 2)))
    if type(q).__name__ in WITH_KL and type(q).__name__ != "MultivariateNormal":
        total += jnp.sum(dist.kl(q, p))
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_strict_dtype_promotion(name):
    q, p = MEMBERS[name]
    with jax.numpy_dtype_promotion("strict"):
        value, grads = jax.value_and_grad(_everything)(q, p)
    assert value.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_stays_float32_where_float64_is_on(name):
    q, p = MEMBERS[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert q.sample(jax.random.key(0), 2).dtype == jnp.float32
        assert jax.eval_shape(_everything, q, p).dtype == jnp.float32


@pytest.mark.parametrize("logit", [-1e4, -300.0, 300.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_bernoulli_is_finite_for_large_logits(logit, x):
    log_prob = lambda x, l: dist.Bernoulli(l[None]).log_prob(x[None])
    x, logit = jnp.float32(x), jnp.float32(logit)
    np.testing.assert_allclose(log_prob(x, logit), x * logit - max(logit, 0), rtol=1e-6)
    in_x, in_logit = jax.grad(log_prob, argnums=(0, 1))(x, logit)
    np.testing.assert_allclose([in_x, in_logit], [logit, x - (logit > 0)], rtol=1e-6)
    assert np.all(np.isfinite(jax.hessian(log_prob, argnums=(0, 1))(x, logit)))
    # Control: the formula that is naive here is infinite or NaN somewhere.
    if abs(logit) == 1e4 and x == 0.3:
        assert not np.isfinite(_naive(x, logit))


def _naive(x, l):
    p = jax.nn.sigmoid(l)
    return x * jnp.log(p) + (1 - x) * jnp.log(1 - p)


def test_bernoulli_derivatives_are_those_of_the_naive_formula():
    log_prob = lambda x, l: dist.Bernoulli(l[None]).log_prob(x[None])
    x, l = jnp.meshgrid(jnp.array([0.0, 0.25, 1.0]), jnp.array([-3.0, -0.5, 0.0, 0.7, 3.0]))
    x, l = x.ravel(), l.ravel()
    for transform in (lambda f: f, lambda f: jax.grad(f, (0, 1)), lambda f: jax.hessian(f, (0, 1))):
        got = jax.tree.leaves(jax.vmap(transform(log_prob))(x, l))
        expected = jax.tree.leaves(jax.vmap(transform(_naive))(x, l))
        np.testing.assert_allclose(np.stack(got), np.stack(expected), rtol=1e-5, atol=2e-6)
    # Forward mode, and a tangent in one argument alone.
    _, tangent = jax.jvp(lambda l: log_prob(x[3], l), (l[3],), (jnp.float32(2.0),))
    np.testing.assert_allclose(tangent, 2 * (x[3] - jax.nn.sigmoid(l[3])), rtol=1e-6)


def test_bernoulli_threshold_and_hard_samples():
    q = dist.Bernoulli(jnp.array([-1e4, -1.0, 0.0, 2.0, 1e4]))
    u = jax.random.uniform(jax.random.key(11), (1000, 5))
    np.testing.assert_array_equal(q.threshold(u), (f64(u) < f64(q.mean)).astype(np.float32))
    # Strict, so that a coin that never falls on 1 does not, and one that always does does.
    np.testing.assert_array_equal(q.threshold(jnp.zeros((1, 5)))[0], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(q.threshold(jnp.full((1, 5), np.nextafter(np.float32(1), 0)))[0], [0, 0, 0, 0, 1])
    assert set(np.unique(q.sample(jax.random.key(12), 100))) == {0.0, 1.0}
    np.testing.assert_allclose(q.mean, expit(f64(q.logits)), rtol=1e-6)


def test_categorical_samples_are_one_hot():
    q = MEMBERS["Categorical"][0]
    z = np.asarray(q.sample(jax.random.key(13), 500))
    assert z.shape == (500, BATCH, DIM, CLASSES)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(-1), 1)
    np.testing.assert_allclose(q.mean.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(levels):
    mean = jnp.array([-0.5, 0.0, 0.11, 0.5, 0.98, 1.0, 1.7])
    log_scale = jnp.array([-7.0, -4.0, -1.0, 0.0, -3.0, -6.0, 3.0])
    grid = (jnp.arange(levels, dtype=jnp.float32) / (levels - 1))[:, None, None]
    q = dist.DiscretizedLogistic(mean[:, None], log_scale[:, None], levels)
    log_prob = f64(q.log_prob(jnp.broadcast_to(grid, (levels, 7, 1))))
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=0), 1, rtol=2e-5)
    # The static field is no leaf, and survives what is done to the leaves.
    assert len(jax.tree.leaves(q)) == 2
    assert jax.tree.map(lambda leaf: 2 * leaf, q).levels == levels


def test_discretized_logistic_is_finite_in_the_far_tails():
    x = jnp.array([0.0, 1 / 255, 0.5, 254 / 255, 1.0])
    for mean in (-30.0, 0.5, 30.0):
        for log_scale in (-12.0, -3.0, 12.0):
            log_prob = lambda m, s: dist.DiscretizedLogistic(m + jnp.zeros(5), s + jnp.zeros(5)).log_prob(x)
            value, grads = jax.value_and_grad(log_prob, argnums=(0, 1))(jnp.float32(mean), jnp.float32(log_scale))
            assert np.all(np.isfinite([value, *grads])), (mean, log_scale)
    # Far out the mass is that of an exponential tail: log p = -|x - m| / s + log(exp(half / s) - exp(-half / s)).
    q = dist.DiscretizedLogistic(jnp.array([30.0]), jnp.array([-3.0]))
    inverse, half = np.exp(3.0), 0.5 / 255
    np.testing.assert_allclose(
        q.log_prob(jnp.array([0.2])), -29.8 * inverse + np.log(2 * np.sinh(half * inverse)), rtol=1e-5
    )


def test_discretized_logistic_samples_are_levels():
    q = MEMBERS["DiscretizedLogistic"][0]
    z = np.asarray(q.sample(jax.random.key(14), 2000)) * (LEVELS - 1)
    np.testing.assert_allclose(z, np.round(z), atol=1e-5)
    assert (z.min(), z.max()) == (0, LEVELS - 1)
    assert getattr(q, "rsample", None) is None


@pytest.mark.parametrize("log_var", [-80.0, 0.0, 80.0])
def test_normal_at_the_ends_of_float32(log_var):
    scale = np.exp(0.5 * log_var)
    mean = jnp.array([0.0])
    z = jnp.array([1.5 * scale], jnp.float32)
    log_prob = lambda z, mean, log_var: dist.Normal(mean, log_var).log_prob(z)
    value, grads = jax.value_and_grad(log_prob, argnums=(0, 1, 2))(z, mean, jnp.array([log_var]))
    np.testing.assert_allclose(value, st.norm(0, scale).logpdf(1.5 * scale), rtol=1e-5)
    expected = [-1.5 / scale, 1.5 / scale, 0.5 * (1.5**2 - 1)]
    np.testing.assert_allclose(np.ravel(grads), expected, rtol=1e-5)
    np.testing.assert_allclose(dist.Normal(mean, jnp.array([log_var])).scale, scale, rtol=1e-5)


def test_normal_scale_is_half_of_log_var():
    q = dist.Normal(jnp.zeros(1), jnp.log(jnp.array([9.0])))
    np.testing.assert_allclose(q.from_noise(jnp.array([[2.0]])), [[6.0]], rtol=1e-6)  # not 18: exp(log_var) is 9


@pytest.mark.parametrize("concentration", [1e-3, 0.05])
def test_small_concentrations_are_finite(concentration):
    small = jnp.full((3,), np.log(concentration), jnp.float32)
    for q in (dist.Gamma(small, jnp.zeros(3)), dist.Beta(small, small), dist.Dirichlet(small)):
        z = q.sample(jax.random.key(15), 10_000)
        assert np.min(z) > 0
        assert np.all(np.isfinite(q.log_prob(z)))
        pathwise = lambda q: jnp.mean(q.log_prob(q.rsample(jax.random.key(15), 10_000)))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.grad(pathwise)(q)))
        if isinstance(q, dist.Gamma) and concentration == 0.05:
            # Over half of the mass is above the floor, where the samples are those of the Gamma.
            above = f64(z[:, 0])
            assert st.kstest(above[above > 1e-30], lambda z: _truncated(z, concentration)).pvalue > 1e-4


def _truncated(z, concentration):
    below = st.gamma.cdf(1e-30, concentration)
    return (st.gamma.cdf(z, concentration) - below) / (1 - below)
