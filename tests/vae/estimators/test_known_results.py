"""Variances, exact special cases and formulas from the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from scipy import stats as st
from scipy.special import logit, softmax

from tests.helpers.contract_cases import assert_same, vr_iwae
from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import (
    LOG_Q_WEIGHT,
    MAX_Z,
    assert_unbiased,
    gradient_program,
    measure,
    oracle,
    problem,
    quantile_nodes,
)
from vae.distributions import Bernoulli, Normal
from vae.estimators import (
    BY_NAME,
    attach,
    integrand,
    log_mean_exp,
    mean,
    stateless,
)
from vae.estimators.parts.score_function import learning_signal
from vae.estimators.reparam_rqmc import _scrambled_normal


def test_variances_on_one_bernoulli():
    """The cost is f(b) = (b - t)^2, and the gradient is in the logit. The variances follow by summing over b."""
    t, p = np.array([[0.45, 0.45, 0.49, 0.499], [0.5, 0.1, 0.5, 0.1]])  # four problems, which are data of one batch
    q = Bernoulli(np.float32(np.log(p) - np.log1p(-p))[:, None])
    f = lambda z: jnp.square(z[..., 0] - t)
    slope = (1 - 2 * t) * p * (1 - p)
    expected = {
        "reinforce": p * (1 - t) ** 4 * (1 - p) ** 2 + (1 - p) * t**4 * p**2 - slope**2,
        "leave_one_out": (1 - 2 * t) ** 2 * (p * (1 - p) / 2 - (p * (1 - p)) ** 2),
    }
    for name, variance in expected.items():
        grads = draw_gradients(BY_NAME[name].make(), q, f, 2**18).logits[..., 0]  # [draws, 4]
        np.testing.assert_allclose(grads.var(0), variance, rtol=0.03)
        assert np.all(np.abs(grads.mean(0) - slope) < MAX_Z * np.sqrt(variance / len(grads)))


def test_variances_on_a_gaussian_quadratic():
    """The cost is f(z) = (z - k)^2 (Mohamed et al. 2020, arXiv:1906.10652), and the gradients are in mean and scale."""
    mu, sigma, k = np.float32([[1.0, 0.5], [1.0, 0.7], [-1.5, 1.0]])  # two problems, which are data of one batch
    m, s = mu - k, sigma
    expected = {
        "reinforce": (m**4 / s**2 + 14 * m**2 + 15 * s**2, 2 * m**4 / s**2 + 60 * m**2 + 74 * s**2),
        "reparam": (4 * s**2, 4 * m**2 + 8 * s**2),
    }
    f = lambda z: jnp.square(z[..., 0] - k)
    posterior = lambda p: Normal(p[0], 2 * jnp.log(p[1]))
    for name, variances in expected.items():
        draws = {"reinforce": 2**20, "reparam": 2**18}[name]  # the gradient of REINFORCE has heavy tails
        grads = draw_gradients(BY_NAME[name].make(), (mu[:, None], sigma[:, None]), f, draws, posterior=posterior)
        for grad, variance, slope in zip(grads, variances, (2 * m, 2 * s), strict=True):
            np.testing.assert_allclose(grad[..., 0].var(0), variance, rtol=0.03)
            assert np.all(np.abs(grad[..., 0].mean(0) - slope) < MAX_Z * np.sqrt(variance / draws))


def test_antithetic_mean_gradient_of_a_quadratic_is_exact():
    q = Normal(jnp.array([0.5, -0.3]), jnp.array([-0.7, 0.4]))
    f = lambda z: jnp.sum(jnp.square(z - jnp.array([1.0, 0.2])), axis=-1)
    grads = draw_gradients(BY_NAME["reparam_antithetic"].make(), q, f, 1000)
    np.testing.assert_allclose(grads.mean, np.broadcast_to([-1.0, -1.0], (1000, 2)), atol=1e-5)
    assert np.all(np.var(grads.log_var, axis=0) > 0.01)


def test_scrambled_sobol_points_fill_every_cell_once_for_every_datum():
    """Of 16 points in two dimensions, one is in each sixteenth of either axis and in each square of side 1/4. The
    scrambling is no common shift of the bits: it changes how two points of a datum differ."""
    u = st.norm.cdf(np.float64(_scrambled_normal(jax.random.key(0), 16, (5, 2))))  # [K, B, D]
    sixteenths, quarters = np.sort(np.floor(16 * u), axis=0), np.floor(4 * u)
    np.testing.assert_array_equal(sixteenths, np.broadcast_to(np.arange(16)[:, None, None], (16, 5, 2)))
    squares = np.sort(4 * quarters[..., 0] + quarters[..., 1], axis=0)
    np.testing.assert_array_equal(squares, np.broadcast_to(np.arange(16)[:, None], (16, 5)))
    words = np.floor(2**16 * u).astype(int)
    assert len(np.unique(words[0, :, 0] ^ words[1, :, 0])) == 5


def test_muprop_of_a_linear_function_is_exact():
    p, slope = np.array([0.3, 0.8]), np.array([1.5, -0.7])
    f = lambda z: z @ np.float32(slope) + 5
    grads = draw_gradients(BY_NAME["muprop"].make(), Bernoulli(np.float32(logit(p))), f, 64).logits
    np.testing.assert_allclose(grads, np.broadcast_to(slope * p * (1 - p), grads.shape), atol=1e-5)


def test_the_second_moments_of_measure_valued_derivatives_of_a_linear_function():
    """With the Rayleigh variable W, the double-sided Maxwell variable M and U uniform, the gradients of f(z) = z are
    2 W / sqrt(2 pi) and scale (M - U M) / 2, where E[W^2] = 2, E[M^2] = 3 and E[(1 - U)^2] = 1/3."""
    scale = 1.5
    q = Normal(np.float32([0.4]), np.float32([2 * np.log(scale)]))
    grads = draw_gradients(BY_NAME["measure_valued"].make(), q, lambda z: z[..., 0], 2**14)
    for leaf, expected in ((grads.mean, 4 / np.pi), (grads.log_var, scale**2 / 4)):
        squares = leaf**2
        assert abs(squares.mean() - expected) < MAX_Z * squares.std() / np.sqrt(len(squares))


def test_stl_has_no_variance_at_the_posterior():
    """The model is linear-Gaussian. Its posterior is diagonal, because the columns of W are orthogonal."""
    weight, noise, x = np.array([[1.0, 1.0], [0.5, -2.0], [-1.0, 0.0]]), 0.6, np.array([0.3, -1.1, 0.8])
    assert np.isclose(weight[:, 0] @ weight[:, 1], 0)
    variance = 1 / (1 + np.square(weight).sum(0) / noise)
    posterior = Normal(jnp.float32(variance * (x @ weight) / noise), jnp.float32(np.log(variance)))

    def log_joint(z):
        residual = jnp.float32(x) - z @ jnp.float32(weight.T)
        return -0.5 * jnp.sum(jnp.square(residual), -1) / noise - 0.5 * jnp.sum(jnp.square(z), -1)

    frozen, plain = (
        draw_gradients(BY_NAME[name].make(), posterior, log_joint, 1000, log_q_weight=1.0)
        for name in ("stl", "reparam")
    )
    for leaf in jax.tree.leaves(frozen):
        np.testing.assert_allclose(leaf, 0, atol=1e-4)
    assert all(np.all(np.std(leaf, axis=0) > 0.1) for leaf in jax.tree.leaves(plain))


def test_dreg_of_one_sample_is_stl():
    toy = problem("Normal")
    run = lambda name, reduce: jax.jit(gradient_program(BY_NAME[name].make(num_samples=1), toy, reduce, {}, {}))(
        toy.phi, toy.theta, jax.random.key(4)
    )
    assert_same(run("dreg", log_mean_exp), run("stl", mean), tolerance=1e-5)


@pytest.mark.parametrize("family", ["Normal", "Bernoulli"])
def test_leave_one_out_of_the_weighted_bound_is_vimco_as_published(family):
    """The expected gradient is eqs. 5 to 10 of Mnih & Rezende (2016), written out for K = 4, with the direct term."""
    toy, key, K = problem(family), jax.random.key(4), 4

    @jax.jit
    def published(q):
        z = q.sample(key, K)
        log_w = toy.log_weight(toy.theta, z, q)  # [K, B]
        rows = []
        for k in range(K):
            mean_of_others = sum(log_w[j] for j in range(K) if j != k) / (K - 1)
            rows.append(log_mean_exp(jnp.stack([mean_of_others if j == k else log_w[j] for j in range(K)])))
        signal = log_mean_exp(log_w) - jnp.stack(rows)  # [K, B]
        score = lambda weight: jax.grad(lambda q: jnp.sum(weight * q.log_prob(z)))(q)
        return log_mean_exp(log_w), score(signal - jax.nn.softmax(log_w, axis=0))

    expected = published(toy.posterior(toy.phi))
    for name in ("leave_one_out", "vimco"):
        estimator = BY_NAME[name].make(num_samples=K)
        run = jax.jit(gradient_program(estimator, toy, log_mean_exp, {}, {}))
        (_, value), (phi, _) = run(toy.phi, toy.theta, key)
        assert_same((value, phi), expected)


def test_large_values_of_f_do_not_round_the_signal_away():
    """The values are near -20,000, where float32 has steps of 2e-3. A signal is a difference divided by 512."""
    values = np.float32(np.random.default_rng(0).normal(size=(512, 3)) * 20 - 2e4)
    control = (np.sum(values, axis=0) - values) / 511
    for reduce in (mean, log_mean_exp):
        with jax.enable_x64(True):
            exact = jax.jit(functools.partial(learning_signal, reduce=reduce))(np.float64(values), np.float64(control))
        signal = jax.jit(functools.partial(learning_signal, reduce=reduce))(values, control)
        np.testing.assert_allclose(signal, exact, rtol=1e-3, atol=1e-5 * np.max(np.abs(exact)))


# The factor of each score. The expected gradient of the bound L_K is sum_k (L_K - w_k) score_k, with the normalized
# weights w_k.
_FACTORS = {
    "reinforce": lambda log_w: log_mean_exp(log_w) - jax.nn.softmax(log_w, axis=0),
    "wake_sleep": lambda log_w: jax.nn.softmax(log_w, axis=0),
}


@pytest.mark.parametrize("name", _FACTORS)
def test_every_score_of_the_importance_weighted_bound_has_its_factor(name):
    toy, key = problem("Bernoulli"), jax.random.key(4)

    @jax.jit
    def published(q):
        z = q.sample(key, 3)
        log_w = toy.log_weight(toy.theta, z, q)
        return log_mean_exp(log_w), jax.grad(lambda q: jnp.sum(_FACTORS[name](log_w) * q.log_prob(z)))(q)

    run = jax.jit(gradient_program(BY_NAME[name].make(num_samples=3), toy, log_mean_exp, {}, {}))
    (_, value), (phi, _) = run(toy.phi, toy.theta, key)
    assert_same((value, phi), published(toy.phi))


@functools.cache
def _wake_phase():
    """Returns value and d theta of the two-sample bound, and E[sum_k w_k grad log q(z_k)] as d phi, all in float64."""
    toy = problem("Normal")
    with jax.enable_x64(True):
        toy = toy.astype(jnp.float64)
        z, log_weight = quantile_nodes(toy.phi, 14)

        @jax.jit
        def gradient(q):
            log_w = toy.log_weight(toy.theta, z, q)  # [N, B]
            share = jax.nn.sigmoid(log_w[:, None] - log_w)  # [N, N, B], the normalized weight of the first of two
            weight = 2 * jnp.exp(log_weight) * jnp.einsum("ijb,j->ib", share, jnp.exp(log_weight[:, 0]))
            return jax.grad(lambda q: jnp.sum(weight * q.log_prob(z)))(q)

        phi = gradient(toy.phi)
    return oracle("Normal", "log_mean_exp", 2) | {
        "phi": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(phi)])
    }


@pytest.mark.parametrize("name", ["wake_sleep", "wake_sleep_dreg"])
def test_wake_sleep_has_the_gradient_of_the_wake_phase(name):
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Normal"), log_mean_exp, _wake_phase())


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_wake_sleep_with_other_weights_is_caught(exponent):
    """Two mistakes: equal weights, with which the expected gradient is zero, and squared weights."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, 2)
        log_weights = integrand(f, stop_gradient(q), log_q_weight)(z)
        weights = jax.nn.softmax(stop_gradient(log_weights), axis=0) ** exponent
        bound = reduce(log_weights)
        return attach(bound, bound + jnp.sum(weights * q.log_prob(z), axis=0))

    report = measure(stateless(estimate), problem("Normal"), log_mean_exp, _wake_phase(), max_chunks=4)
    assert report.biased() == ["phi"]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_dreg_weights_of_the_vr_iwae_bound(alpha):
    """The path of sample k has the weight alpha w_k + (1 - alpha) w_k^2 (Daudel et al. 2023, arXiv:2210.06226)."""
    q = Normal(jnp.array([0.4]), jnp.array([-0.2]))
    tilt = jnp.array([1.0, -0.5, 2.0, 0.3])
    # v_k = f_k - log q(z_k) = tilt_k z_k, so the gradient in the mean is the sum of tilt_k times the weight of path k.
    log_weights = lambda z: tilt * z[:, 0]
    f = lambda z: log_weights(z) + stop_gradient(q).log_prob(z)
    estimator = BY_NAME["dreg"].make(num_samples=4)
    key = jax.random.key(9)
    value = lambda q: estimator.estimate({}, {}, key, q, f, vr_iwae(alpha), LOG_Q_WEIGHT).value
    w = softmax((1 - alpha) * np.float64(jax.jit(lambda q: log_weights(q.rsample(key, 4)))(q)))
    np.testing.assert_allclose(
        jax.jit(jax.grad(value))(q).mean, [np.sum(tilt * (alpha * w + (1 - alpha) * w**2))], rtol=1e-5
    )


@pytest.mark.slow
def test_signal_to_noise_follows_rainforth():
    """The signal-to-noise ratio grows as sqrt(K) for the decoder and falls as 1 / sqrt(K) for the encoder (Rainforth et
    al. 2018, arXiv:1802.04537). With DReG, it grows for the encoder too."""
    snr = {"decoder": [], "encoder": [], "dreg": []}
    counts = [4, 16, 64, 256]
    for num_samples in counts:
        plain, doubly = (_rainforth_gradients(name, num_samples) for name in ("reparam", "dreg"))
        snr["decoder"].append(_norm_ratio(plain[1].mean(0), plain[1].std(0)))
        # The encoder's mean gradient is estimated with DReG, which has the same mean and less noise.
        snr["encoder"].append(_norm_ratio(doubly[0].mean(0), plain[0].std(0)))
        snr["dreg"].append(_norm_ratio(doubly[0].mean(0), doubly[0].std(0)))
    slope = {name: np.polyfit(np.log(counts), np.log(ratios), 1)[0] for name, ratios in snr.items()}
    assert abs(slope["decoder"] - 0.5) < 0.1, slope
    assert abs(slope["encoder"] + 0.5) < 0.1, slope
    assert slope["dreg"] > 0.3, slope


def _norm_ratio(signal, noise) -> float:
    return np.linalg.norm(signal) / np.linalg.norm(noise)


def _rainforth_gradients(name, num_samples, data=16, width=20, draws=512):
    """Returns `[draws, width]` gradients in the encoder's b and in the prior's mean, near the optimum for the data."""
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=width) + np.sqrt(2) * rng.normal(size=(data, width)))
    perturbation = lambda scale, *shape: scale * jnp.float32(rng.normal(size=shape))
    # The decoder is farther from its optimum than the encoder is from the decoder's posterior. So the signal of the
    # decoder does not depend on K.
    prior_mean = jnp.mean(x, 0) + perturbation(0.3, width)
    b = prior_mean / 2 + perturbation(0.03, width)
    a = jnp.eye(width) / 2 + perturbation(0.01, width, width)
    estimator = BY_NAME[name].make(num_samples=num_samples)

    def bound(b, prior_mean, key):
        q = Normal(x @ a + b, jnp.full(x.shape, np.float32(np.log(2 / 3))))
        log_normal = lambda d: -0.5 * jnp.sum(jnp.square(d), -1)
        f = lambda z: log_normal(z - prior_mean) + log_normal(x - z)
        return jnp.mean(estimator.estimate({}, {}, key, q, f, log_mean_exp, LOG_Q_WEIGHT).value)

    run = jax.jit(
        lambda keys: jax.lax.map(lambda key: jax.grad(bound, (0, 1))(b, prior_mean, key), keys, batch_size=16)
    )
    return [np.float64(g) for g in run(jax.random.split(jax.random.key(num_samples), draws))]
