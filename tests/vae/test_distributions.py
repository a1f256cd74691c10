"""Every family against scipy, against its own samples, against quadrature, and at the ends of float32.

Most of the time here is compilation, so what a family is asked is one program, of which the tests read the answers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit, gamma

from vae import distributions as dist
from vae.estimators.arms import opposed_samples

BATCH, DIM, CLASSES, LEVELS = 2, 3, 4, 17
LOG_049 = np.full((BATCH, DIM), 2 * np.log(0.7), np.float32)
f64 = lambda array: np.asarray(array, np.float64)


def _draw(seed, *shape, scale=0.4, shift=0.0):
    return np.asarray(shift + scale * np.random.default_rng(seed).normal(size=shape), np.float32)


def _cholesky(seed, scale):
    lower = np.tril(_draw(seed, BATCH, DIM, DIM), -1) + scale * np.eye(DIM)
    return np.asarray(lower, np.float32)


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
    "Bernoulli": (
        dist.Bernoulli(_draw(28, BATCH, DIM, scale=1, shift=1.5)),
        dist.Bernoulli(_draw(29, BATCH, DIM, scale=1)),
    ),
    "Categorical": (
        dist.Categorical(_draw(30, BATCH, DIM, CLASSES, scale=0.3)),
        dist.Categorical(_draw(31, BATCH, DIM, CLASSES, scale=1.2)),
    ),
    "BinaryConcrete": (
        dist.BinaryConcrete(_draw(36, BATCH, DIM), 0.7),
        dist.BinaryConcrete(_draw(37, BATCH, DIM), 0.9),
    ),
    "ExpConcrete": (
        dist.ExpConcrete(_draw(38, BATCH, DIM, CLASSES), 0.7),
        dist.ExpConcrete(_draw(39, BATCH, DIM, CLASSES), 0.9),
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
        case "BinaryConcrete":
            return st.logistic(leaf["logits"] / q.temperature, 1 / q.temperature)


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
            z = np.round(z * (q.levels - 1)) / (q.levels - 1)
            continuous, half = st.logistic(f64(q.mean), np.exp(f64(q.log_scale))), 0.5 / (q.levels - 1)
            upper = np.where(z > 1 - half, 1, continuous.cdf(z + half))
            return np.log(upper - np.where(z < half, 0, continuous.cdf(z - half))).sum(-1)
        case dist.Bernoulli():
            return _frozen(q).logpmf(z).sum(-1)
        case dist.ExpConcrete():  # by the density on the simplex, and the change of variables to log ratios
            a, x, t, n = np.exp(f64(q.logits)), np.exp(z), q.temperature, CLASSES
            density = gamma(n) * t ** (n - 1) * np.prod(a * x ** (-t - 1), -1) / np.sum(a * x**-t, -1) ** n
            return np.log(density * np.prod(x, -1)).sum(-1)
    return _frozen(q).logpdf(z).sum(-1)


@functools.cache
def _answers(name):
    """z ~ q `[K, B, ...]`, log q(z), log p(z), and the KLs, in one program and under strict promotion of dtypes."""

    def program(q, p, key):
        z = q.sample(key, 40_000)
        out = {"z": z, "q": q.log_prob(z), "p": p.log_prob(z)}
        if name in WITH_KL:
            out["kl"], out["to itself"] = dist.kl(q, prior(p)), jax.value_and_grad(to_itself)(q)
            out["one prior"] = dist.kl(q, prior(jax.tree.map(lambda leaf: leaf[0], p)))
            if name != "MultivariateNormal":
                out["reverse"] = dist.kl(p, q)
        return out

    prior, to_itself = lambda p: p, lambda q: jnp.sum(dist.kl(q, jax.lax.stop_gradient(q)))
    if name == "MultivariateNormal":  # has a closed form against a diagonal Normal
        prior = lambda p: dist.Normal(p.mean, jnp.full_like(p.mean, -0.2))
        diagonal = lambda mean: dist.MultivariateNormal(mean, jnp.broadcast_to(0.7 * jnp.eye(DIM), (BATCH, DIM, DIM)))
        to_itself = lambda q: jnp.sum(dist.kl(diagonal(q.mean), dist.Normal(jax.lax.stop_gradient(q.mean), LOG_049)))
    with jax.numpy_dtype_promotion("strict"):
        return jax.device_get(jax.jit(program)(*MEMBERS[name], jax.random.key(1)))


def _z_score(draws, truth):
    """Standard errors between the mean of `draws` over axis 0 and the truth, and that standard error."""
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return np.abs(draws.mean(axis=0) - truth) / error, error


@pytest.mark.parametrize("name", FAMILIES)
def test_log_prob_is_scipys(name):
    answers, (q, p) = _answers(name), MEMBERS[name]
    z = answers["z"][:300]
    assert answers["z"].dtype == answers["q"].dtype == np.float32
    assert q.batch_shape == (BATCH,)
    np.testing.assert_allclose(answers["q"][:300], _scipy_log_prob(q, z), rtol=2e-5, atol=5e-5)
    np.testing.assert_allclose(answers["p"][:300], _scipy_log_prob(p, z), rtol=2e-5, atol=5e-5)
    assert np.abs(answers["p"][:300] - _scipy_log_prob(q, z)).mean() > 0.05  # control: q and p are not the same


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_of_the_density(name):
    answers = _answers(name)
    weights = np.exp(f64(answers["p"]) - f64(answers["q"]))  # [K, B]
    scores, error = _z_score(weights, 1.0)  # E_q p(z) / q(z) = 1
    assert scores.max() < 4.5
    assert error.max() < 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_pass_kolmogorov_smirnov_or_chi_square(name):
    (q, p), z = MEMBERS[name], _answers(name)["z"][:10_000]
    assert _p_value(q, z) > 1e-4
    assert _p_value(p, z) < 1e-10  # the control


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "DiscretizedLogistic"])
def test_mean_is_that_of_the_samples(name):
    z = f64(_answers(name)["z"])
    if name in ("BinaryConcrete", "ExpConcrete"):  # whose mean is that of the discrete variable they stand for
        z = z > 0 if name == "BinaryConcrete" else z == z.max(-1, keepdims=True)
    scores, error = _z_score(f64(z), f64(MEMBERS[name][0].mean))
    assert scores.max() < 4.5
    assert error.max() < 0.03


def test_samples_of_two_classes_are_bits():
    q, other = (dist.Categorical(_draw(seed, BATCH, DIM, 2, scale=1.2)) for seed in (40, 41))
    z = jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 10_000)
    assert z.shape == (10_000, BATCH, DIM, 2)
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
    elif isinstance(q, dist.ExpConcrete):
        return _chi_square(dist.Categorical(q.logits), f64(z == z.max(-1, keepdims=True)))
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
        p = np.exp(_scipy_log_prob(wide, grid[:, None]))  # [B, D, levels]
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
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient(MEMBERS[name][0])))


def _sine(z):
    """A smooth integrand with a bounded derivative, so that heavy tails have a finite variance."""
    numpy = np if isinstance(z, np.ndarray) else jnp
    return numpy.sin(2 * z) + numpy.cos(z)


ONE_DIMENSIONAL = {
    "Normal": dist.Normal(np.float32([0.4]), np.float32([-0.5])),
    "Laplace": dist.Laplace(np.float32([0.4]), np.float32([-0.5])),
    "StudentT": dist.StudentT(np.float32([0.4]), np.float32([-0.5]), np.float32([np.log(3.5)])),
    "Gamma": dist.Gamma(np.float32([0.3]), np.float32([0.4])),
    "Gamma below 1": dist.Gamma(np.float32([-1.0]), np.float32([-0.4])),
    "Beta": dist.Beta(np.float32([0.5]), np.float32([-0.3])),
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


@functools.partial(jax.jit, static_argnums=1)
def _pathwise(q, integrand):
    """One gradient of integrand(z) in q for each draw: every leaf `[draws, *leaf]`, by one backward pass."""
    tiled = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (60_000, *leaf.shape)), q)
    return jax.grad(lambda q: jnp.sum(integrand(q.rsample(jax.random.key(3), 1))))(tiled)


def _assert_gradients(draws, truth, largest_error):
    for estimate, exact in zip(jax.tree.leaves(draws), jax.tree.leaves(truth), strict=True):
        scores, error = _z_score(f64(estimate), exact)
        assert np.all(scores < 4.5), (scores, exact)
        assert error.max() < largest_error * max(1.0, np.abs(exact).max())


# Beta is Dirichlet of two parts, and compiles for long.
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in ("Beta", dist.Beta) else [])


@pytest.mark.parametrize("name", [_slow(each) for each in ONE_DIMENSIONAL])
def test_rsample_gradient_is_that_of_the_expectation(name):
    q = ONE_DIMENSIONAL[name]
    draws = _pathwise(q, _sine)
    truth = _finite_differences(_expectation, q)
    assert all(np.abs(leaf).min() > 0.01 for leaf in jax.tree.leaves(truth))  # nothing is tested where all is 0
    _assert_gradients(draws, truth, 0.015)
    # Control: a gradient that is wrong by a tenth.
    wrong = jax.tree.map(lambda leaf: leaf + 0.1 * np.abs(leaf) + 0.02, truth)
    with pytest.raises(AssertionError):
        _assert_gradients(draws, wrong, 0.015)


def test_rsample_gradient_of_dirichlet():
    q = dist.Dirichlet(np.float32([0.5, -0.4, 0.1]))
    c = np.array([1.0, -2.0, 0.5], np.float32)

    def expectation(q):
        a = np.exp(q.log_concentration)
        marginals = zip(c, a, a.sum() - a, strict=True)
        return sum(c * st.beta(a, b).expect(lambda z: np.sin(3 * z)) for c, a, b in marginals)

    draws = _pathwise(q, lambda z: jnp.sum(c * jnp.sin(3 * z), axis=-1))
    _assert_gradients(draws, _finite_differences(expectation, q), 0.015)


def test_rsample_gradient_of_multivariate_normal():
    q = dist.MultivariateNormal(np.float32([0.4, -0.7]), np.float32([[0.8, 0.0], [0.5, 1.1]]))

    def expectation(q):
        covariance = q.cholesky @ q.cholesky.T
        sines = np.exp(-0.5 * np.diag(covariance)) * np.sin(q.mean)
        return np.sum(sines) + covariance[0, 1] + q.mean[0] * q.mean[1]

    integrand = lambda z: jnp.sum(jnp.sin(z), axis=-1) + z[..., 0] * z[..., 1]
    draws = _pathwise(q, integrand)
    _assert_gradients(draws, _finite_differences(expectation, q), 0.015)


@pytest.mark.parametrize("name", ["Normal", "Laplace", "StudentT", "MultivariateNormal"])
def test_from_noise_is_the_reparameterization_trick(name):
    q, key = MEMBERS[name][0], jax.random.key(6)

    @jax.jit
    def draws(q):
        eps = q.noise(key, (5, BATCH, DIM), jnp.float32)
        return eps, q.from_noise(eps), q.rsample(key, 5), q.sample(key, 5)

    eps, z, rsample, sample = jax.device_get(draws(q))
    scale = q.cholesky if name == "MultivariateNormal" else np.asarray(q.scale)[..., None] * np.eye(DIM)
    np.testing.assert_allclose(z, f64(q.mean) + (f64(scale) @ f64(eps)[..., None])[..., 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(z, rsample)
    np.testing.assert_array_equal(z, sample)


@pytest.mark.parametrize("name", FAMILIES)
def test_is_a_pytree(name):
    q, z = MEMBERS[name][0], _answers(name)["z"][:4]
    log_prob = jax.jit(lambda q, z: q.log_prob(z))
    # vmap over the batch is a loop over it.
    mapped = jax.jit(jax.vmap(lambda q, z: q.log_prob(z), in_axes=(0, 1), out_axes=1))(q, z)
    loop = [log_prob(jax.tree.map(lambda leaf, b=b: leaf[b], q), z[:, b]) for b in range(BATCH)]
    np.testing.assert_allclose(mapped, np.stack(loop, axis=1), rtol=1e-6, atol=1e-6)
    # stop_gradient freezes q and leaves z.
    freeze = lambda q, z, frozen: jnp.sum((jax.lax.stop_gradient(q) if frozen else q).log_prob(z))
    gradient = jax.jit(jax.grad(freeze, argnums=(0, 1)), static_argnums=2)
    (frozen, in_z), (free, _) = gradient(q, z, True), gradient(q, z, False)
    assert type(frozen) is type(free) is type(q)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(frozen))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(free))
    assert np.any(in_z != 0)


@pytest.mark.parametrize("name", ["Normal", "Bernoulli", "Categorical"])
def test_sampling_maps_over_keys(name):
    q, keys = MEMBERS[name][0], jax.random.split(jax.random.key(8), BATCH)
    sample = lambda q, key: q.sample(key, 20)
    rows = [jax.jit(sample)(jax.tree.map(lambda leaf, b=b: leaf[b], q), keys[b]) for b in range(BATCH)]
    np.testing.assert_allclose(jax.jit(jax.vmap(sample))(q, keys), np.stack(rows), rtol=1e-5, atol=1e-6)
    assert np.any(rows[0] != rows[1])


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_is_the_mean_log_ratio(name):
    answers, p = _answers(name), MEMBERS[name][1]
    log_p = answers["p"]
    if name == "MultivariateNormal":
        log_p = st.norm(f64(p.mean), np.exp(-0.1)).logpdf(f64(answers["z"])).sum(-1)
    ratio, exact = f64(answers["q"]) - f64(log_p), f64(answers["kl"])
    assert exact.shape == (BATCH,)
    scores, error = _z_score(ratio, exact)
    assert scores.max() < 4.5
    assert np.all(error < 0.02 * np.maximum(exact, 0.3))
    if name != "MultivariateNormal":  # the control: the other direction
        assert _z_score(ratio, f64(answers["reverse"]))[0].max() > 10
    # A prior without a batch broadcasts against a posterior with one.
    np.testing.assert_allclose(answers["one prior"][0], exact[0], rtol=1e-5)


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_to_itself_is_zero_and_a_minimum(name):
    value, grads = _answers(name)["to itself"]
    for leaf in (value, *jax.tree.leaves(grads)):
        np.testing.assert_allclose(leaf, 0, atol=5e-6)


def test_two_classes_are_a_bit():
    """ExpConcrete of two classes is BinaryConcrete of the difference of their logits; far out too."""
    logits = np.float32([[0.3, -1.1], [20.0, -20.0]])
    bits, classes = dist.BinaryConcrete(logits[:, 0] - logits[:, 1], 0.5), dist.ExpConcrete(logits, 0.5)
    z = jax.nn.log_sigmoid(jnp.float32([[[1.5, -1.5], [60.0, -60.0]], [[-0.4, 0.4], [90.0, -90.0]]]))
    np.testing.assert_allclose(classes.log_prob(z), bits.log_prob(z[..., 0] - z[..., 1]), rtol=1e-5)


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
def test_gradients_under_strict_dtype_promotion(name):
    with jax.numpy_dtype_promotion("strict"):
        out = jax.eval_shape(jax.value_and_grad(_everything), *MEMBERS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_stays_float32_where_float64_is_on(name):
    q, p = MEMBERS[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(lambda q: q.sample(jax.random.key(0), 2), q).dtype == jnp.float32
        assert jax.eval_shape(_everything, q, p).dtype == jnp.float32


def _bernoulli(x, l):
    return dist.Bernoulli(l[None]).log_prob(x[None])


def _naive(x, l):
    p = jax.nn.sigmoid(l)
    return x * jnp.log(p) + (1 - x) * jnp.log(1 - p)


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(log_prob, x, l):
    """The value, both first and all four second derivatives, a row each."""
    every = lambda x, l: [transform(log_prob, (0, 1))(x, l) for transform in (jax.grad, jax.hessian)]
    return jnp.stack(jax.tree.leaves((log_prob(x, l), every(x, l))))


_grid = lambda x, l: [axis.ravel() for axis in np.meshgrid(np.float32(x), np.float32(l))]


def test_bernoulli_is_finite_for_large_logits():
    x, l = _grid([0, 0.3, 1], [-1e4, -300, 300, 1e4])
    got = np.asarray(jax.vmap(lambda x, l: _derivatives(_bernoulli, x, l))(x, l)).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    expected = [x * l - np.maximum(l, 0), l, x - (l > 0), zero, one, one, zero]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Control: the naive formula is not finite here.
    naive = np.asarray(jax.vmap(lambda x, l: _derivatives(_naive, x, l))(x, l))
    assert not np.isfinite(naive[:, 0]).all()


def test_bernoulli_derivatives_are_those_of_the_naive_formula():
    x, l = _grid([0, 0.25, 1], [-3, -0.5, 0, 0.7, 3])
    got, expected = (jax.vmap(lambda x, l, f=f: _derivatives(f, x, l))(x, l) for f in (_bernoulli, _naive))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    # Forward mode, with a tangent in one argument alone.
    _, tangent = jax.jvp(lambda l: _bernoulli(x[3], l), (l[3],), (np.float32(2.0),))
    np.testing.assert_allclose(tangent, 2 * (x[3] - expit(f64(l[3]))), rtol=1e-6)


def test_bernoulli_threshold_and_hard_samples():
    q = dist.Bernoulli(jnp.array([-1e4, -1.0, 0.0, 2.0, 1e4]))
    u = jax.random.uniform(jax.random.key(11), (1000, 5))
    np.testing.assert_array_equal(q.threshold(u), (f64(u) < f64(q.mean)).astype(np.float32))
    # Strict, so that a coin that never falls on 1 does not, and one that always does does.
    np.testing.assert_array_equal(q.threshold(jnp.zeros((1, 5)))[0], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(q.threshold(jnp.full((1, 5), np.nextafter(np.float32(1), 0)))[0], [0, 0, 0, 0, 1])
    assert set(np.unique(q.sample(jax.random.key(12), 100))) == {0.0, 1.0}
    np.testing.assert_allclose(q.mean, expit(f64(q.logits)), rtol=1e-6)


def test_a_bit_that_is_rarer_than_floats_tell_does_not_happen(monkeypatch):
    """At a logit of -30, 1e-13: not even where all uniform numbers are the least, or all exponential ones far apart."""
    q = dist.Bernoulli(jnp.array([-30.0, 30.0]))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    np.testing.assert_array_equal(q.sample(jax.random.key(0), 1), [[0, 1]])
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: jnp.array([[-99.0, 99.0], [99.0, -99.0]]))
    np.testing.assert_array_equal(opposed_samples(jax.random.key(0), q, 2), [[0, 1], [0, 1]])
    relaxed = dist.BinaryConcrete(jnp.array([-30.0, 30.0]), temperature=0.5).sample(jax.random.key(0), 1)
    np.testing.assert_allclose(relaxed, 2 * (st.logistic.ppf(2.0**-24) + q.logits[None]), rtol=1e-6)


def test_samples_are_of_the_factor_that_the_density_takes():
    """And not of one that an accelerator has rounded."""
    q, eps = MEMBERS["MultivariateNormal"][0], jnp.zeros((3, BATCH, DIM))
    program = str(jax.make_jaxpr(q.from_noise)(eps))
    assert program.count("dot_general[") == program.count("HIGHEST,") == 1, program


def test_categorical_samples_are_one_hot():
    q = MEMBERS["Categorical"][0]
    z = _answers("Categorical")["z"][:500]
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
    x = np.float32([0, 1 / 255, 0.5, 254 / 255, 1])[:, None]
    mean, log_scale = _grid([-30, 0.5, 30], [-12, -3, 12])
    log_prob = jax.vmap(lambda m, s, x: dist.DiscretizedLogistic(m, s).log_prob(x), in_axes=(0, 0, None))
    total = lambda m, s: jnp.sum(log_prob(m[:, None], s[:, None], x))
    assert np.all(np.isfinite(log_prob(mean[:, None], log_scale[:, None], x)))
    assert np.all(np.isfinite(jax.jit(jax.grad(total, argnums=(0, 1)))(mean, log_scale)))
    # Far out the mass is that of an exponential tail: log p = -|x - m| / s + log(exp(half / s) - exp(-half / s)).
    q = dist.DiscretizedLogistic(np.float32([30.0]), np.float32([-3.0]))
    inverse, half = np.exp(3.0), 0.5 / 255
    truth = -29.8 * inverse + np.log(2 * np.sinh(half * inverse))
    np.testing.assert_allclose(q.log_prob(np.float32([0.2])), truth, rtol=1e-5)


def test_discretized_logistic_samples_are_levels():
    q, z = MEMBERS["DiscretizedLogistic"][0], _answers("DiscretizedLogistic")["z"] * (LEVELS - 1)
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


def test_the_monte_carlo_divergence_of_small_concentrations_is_the_closed_one():
    """A floor under the samples that holds much of the mass would lower it."""
    q = dist.Dirichlet(np.log(np.float32([[0.1, 0.1, 0.3]])))
    p = dist.Dirichlet(np.zeros((1, 3), np.float32))

    @jax.jit
    def draws(key):
        z = q.sample(key, 100_000)
        return q.log_prob(z) - p.log_prob(z)

    found = f64(draws(jax.random.key(3)))
    assert abs(found.mean() - dist.kl(q, p)[0]) < 4.5 * found.std() / np.sqrt(found.size)


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
        z = f64(z[:, 1, 0])
        assert st.kstest(z[z > 1e-30], lambda z: _truncated(z, 0.05)).pvalue > 1e-4


def _truncated(z, concentration):
    below = st.gamma.cdf(1e-30, concentration)
    return (st.gamma.cdf(z, concentration) - below) / (1 - below)
