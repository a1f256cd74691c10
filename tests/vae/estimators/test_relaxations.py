"""Relaxations, straight-through estimators, REBAR and RELAX: known results, and negative controls that must fail."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.lax import stop_gradient
from scipy.special import logit, softmax

from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import (
    LOG_Q_WEIGHT,
    MAX_Z,
    assert_unbiased,
    differentiate_exactly,
    make_estimator,
    measure,
    oracle,
    problem,
)
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, attach, integrand, log_mean_exp, mean, stateless
from vae.estimators.parts.one_hot import accept_bits, harden, perturb, perturb_given
from vae.estimators.parts.relaxed_control import relax_towards_mean

HARD = (
    *("st_gumbel_softmax", "gumbel_rao", "straight_through", "reinmax", "gapped_st"),
    pytest.param("reinmax_rao", marks=pytest.mark.slow),
)
DISCRETE = ("Bernoulli", "Categorical")
CATEGORICAL = Categorical(np.float32([[0.5, -0.7, 0.1], [-0.9, 0.4, 0.8]]))


def _z_score(first, second):
    """Returns the largest difference between two means, in standard errors."""
    error = np.sqrt((first.var(0) + second.var(0)) / len(first))
    return np.max(np.abs(first.mean(0) - second.mean(0)) / np.maximum(error, 1e-7))


# Straight-through.


def _polynomial(family, degree):
    """A problem where log p is a polynomial of degree `degree` in each latent variable, given the others."""

    def log_joint(theta, z):
        z = z.reshape(*z.shape[:2], 2, -1)  # [K, B, D, C]
        linear = jnp.einsum("kbdc,dco->kbdo", z, theta["weight"].reshape(2, -1, 2)) + theta["bias"] + 1
        return jnp.sum(theta["x"] * jnp.prod(linear**degree, axis=-2), axis=-1)

    return problem(family)._replace(log_joint=log_joint)


_EXACT_ON = [("straight_through", {}, 1), ("reinmax", {}, 1), ("reinmax", {}, 2)]
_BIASED_ON = [
    ("straight_through", {}, 2),
    ("reinmax", {}, 3),
    ("reinmax", {"temperature": 2.0}, 2),
    ("st_gumbel_softmax", {}, 1),
]


@pytest.mark.parametrize("family", DISCRETE)
@pytest.mark.parametrize(("name", "options", "degree"), _EXACT_ON)
def test_straight_through_is_exact_on_linear_and_reinmax_on_quadratic_functions(name, options, degree, family):
    toy = _polynomial(family, degree)
    assert_unbiased(BY_NAME[name].make(1, **options), toy, mean, differentiate_exactly(toy, mean, 1))


@pytest.mark.parametrize("family", DISCRETE)
@pytest.mark.parametrize(("name", "options", "degree"), _BIASED_ON)
def test_straight_through_estimators_are_biased_beyond_their_exact_cases(name, options, degree, family):
    toy = _polynomial(family, degree)
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(
            BY_NAME[name].make(1, **options), toy, mean, differentiate_exactly(toy, mean, 1), groups=("phi",)
        )


@pytest.mark.parametrize(("t", "p"), [(0.45, 0.5), (0.45, 0.1), (0.49, 0.5)])
def test_straight_through_and_reinmax_on_one_bernoulli(t, p):
    """The cost is f(b) = (b - t)^2, and the expected gradients are those for b = 0 and b = 1.

    ReinMax multiplies f' by |b - p| / 2, which gives the exact mean. Straight-through multiplies f' by p (1 - p), which
    gives a mean of the wrong sign for p < t < 1/2.
    """
    q = Bernoulli(np.float32([logit(p)]))
    f = lambda z: jnp.sum(jnp.square(z - t), axis=-1)
    at_0_and_1 = {"straight_through": 2 * p * (1 - p) * np.array([-t, 1 - t]), "reinmax": [-p * t, (1 - p) * (1 - t)]}
    for name, expected in at_0_and_1.items():
        grads = draw_gradients(BY_NAME[name].make(1), q, f, 256).logits
        np.testing.assert_allclose([grads.min(), grads.max()], expected, rtol=1e-5)
        assert np.all(np.isclose(grads, grads.min()) | np.isclose(grads, grads.max()))
    exact = (1 - 2 * t) * p * (1 - p)
    np.testing.assert_allclose(np.dot([1 - p, p], at_0_and_1["reinmax"]), exact)


# Relaxations.


@pytest.mark.parametrize("family", DISCRETE)
@pytest.mark.parametrize("name", [*HARD, "gumbel_softmax", "rebar", "relax"])
def test_f_gets_hard_samples_except_from_gumbel_softmax(name, family):
    """The samples of Gumbel-softmax lie inside the simplex. For the others, the first evaluation is at hard samples."""
    toy, estimator = problem(family), BY_NAME[name].make(num_samples=50)

    @jax.jit
    def first_seen(key):
        params, state = estimator.init(key, toy.phi, None)
        seen = []
        f = lambda z: seen.append(z) or toy.integrand(toy.theta)(z)
        estimator.estimate(params, state, key, toy.phi, f)
        return seen[0]

    z = np.asarray(first_seen(jax.random.key(1)))
    assert z.shape == (50, *toy.phi.logits.shape)
    assert np.all((z == 0) | (z == 1)) == (name != "gumbel_softmax")
    assert np.all((z >= 0) & (z <= 1))
    if family == "Categorical":
        np.testing.assert_allclose(np.sum(z, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", [*HARD, "gumbel_softmax"])
def test_the_bound_of_three_samples_is_one_sample_of_three_times_the_latents(name):
    """A straight-through gradient of a bound with K samples treats log mean exp f as a function of one long sample."""
    logits, weight = np.float32([[0.6, -1.1], [0.8, -1.7]])
    f = lambda z: jnp.sin(2 * z @ weight)
    together = lambda z: log_mean_exp(f(z.reshape(3, 2)))[None]
    three = draw_gradients(BY_NAME[name].make(num_samples=3), Bernoulli(logits), f, 8, reduce=log_mean_exp).logits
    one = draw_gradients(
        BY_NAME[name].make(num_samples=1), Bernoulli(np.tile(logits, 3)), together, 8, reduce=log_mean_exp
    ).logits
    np.testing.assert_allclose(three, one.reshape(8, 3, 2).sum(1), rtol=1e-4, atol=1e-5)


def test_gumbel_softmax_differentiates_the_relaxed_bound_also_in_its_density():
    key, f = jax.random.key(0), lambda z: jnp.sum(jnp.sin(z @ jnp.arange(3.0)), axis=-1)
    noise = jax.random.gumbel(key, (4, *CATEGORICAL.logits.shape))

    def bound(logits, hold):
        z, q = jax.nn.softmax((logits + noise) / 0.7), Categorical(logits)
        return jnp.mean(f(z) - (stop_gradient(q) if hold else q).log_prob(z))

    estimator = BY_NAME["gumbel_softmax"].make(num_samples=4, temperature=0.7)
    value = lambda q: estimator.estimate({}, {}, key, q, f, mean, log_q_weight=1.0).value
    gradient = jax.jit(jax.grad(value))(CATEGORICAL).logits
    exact, held = (jax.jit(jax.grad(bound), static_argnums=1)(CATEGORICAL.logits, hold) for hold in (False, True))
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-6)
    assert np.abs(held - exact).max() > 0.1


@pytest.mark.parametrize("family", DISCRETE)
def test_the_bias_of_gumbel_softmax_falls_with_the_temperature(family):
    """The relative bias of the value and of the gradient includes a Monte Carlo error of 1 %."""
    exact = oracle(family, "mean", 1, "cubic")
    bias = {}
    for temperature in (1.0, 0.1):
        estimator = BY_NAME["gumbel_softmax"].make(num_samples=1, temperature=temperature)
        bias[temperature] = measure(estimator, problem(family, "cubic"), mean, exact).relative_bias
    for group in ("value", "phi"):
        assert bias[0.1][group] < 0.2 * bias[1.0][group]


def test_noise_given_z_is_gumbel_noise_on_average_over_z():
    """The noise consists of independent standard Gumbel variables, and the argmax of the perturbed logits is z."""

    @jax.jit
    def draw(key_z, key_noise):
        z = CATEGORICAL.sample(key_z, 2**16)
        x = perturb_given(key_noise, CATEGORICAL, z, 1)[0]
        return z, x, harden(x)

    z, x, hardened = jax.device_get(draw(jax.random.key(0), jax.random.key(1)))
    np.testing.assert_array_equal(hardened, z)
    noise = np.float64(x - CATEGORICAL.logits).reshape(len(x), -1)
    error = np.sqrt(np.pi**2 / 6 / len(noise))
    assert np.max(np.abs(noise.mean(0) - np.euler_gamma)) < MAX_Z * error
    covariance = np.cov(noise.T)
    kurtosis = 5.4  # Gumbel; the variance of a sample variance is (kurtosis - 1) variance^2 / n
    assert np.max(np.abs(covariance - np.pi**2 / 6 * np.eye(6))) < MAX_Z * np.sqrt(kurtosis - 1) * np.pi**2 / 6 / 2**8


def _gumbel_rao_differentiating_the_sampler(temperature=0.5):
    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, 1)
        x = perturb_given(jax.random.fold_in(key, 1), q, z, 10)
        z = attach(z, jnp.mean(jax.nn.softmax(x / temperature), axis=0))
        return reduce(integrand(f, q, log_q_weight)(z))

    return accept_bits(stateless(estimate))


@pytest.mark.parametrize("family", ["Categorical", pytest.param("Bernoulli", marks=pytest.mark.slow)])
def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_softmax_and_less_variance(family):
    toy, draws = problem(family), 2**16
    f = toy.integrand(toy.theta)
    draw = lambda estimator, seed: (
        draw_gradients(estimator, toy.phi, f, draws, log_q_weight=LOG_Q_WEIGHT, seed=seed).logits
    )
    plain = draw(BY_NAME["st_gumbel_softmax"].make(1), seed=0)
    averaged = draw(BY_NAME["gumbel_rao"].make(1), seed=1)
    assert _z_score(plain, averaged) < MAX_Z
    assert averaged.var(0).sum() < 0.9 * plain.var(0).sum()
    wrong = draw(_gumbel_rao_differentiating_the_sampler(), seed=1)
    assert _z_score(plain, wrong) > 2 * MAX_Z


@pytest.mark.parametrize("name", ["gumbel_rao", "reinmax_rao"])
def test_the_noise_given_the_sample_is_independent_of_it(name):
    """So the number of inner samples does not change the mean of the gradient."""
    q, f = Categorical(np.float32([[0.7, -0.4, 0.1]])), lambda z: jnp.sum(jnp.sin(3 * z @ jnp.arange(3.0)), axis=-1)
    draw = lambda number, seed: draw_gradients(BY_NAME[name].make(inner_samples=number), q, f, 2**14, seed=seed).logits
    assert _z_score(draw(1, seed=0), draw(8, seed=1)) < MAX_Z


# REBAR and RELAX.


def test_the_network_of_relax_reads_the_relaxed_sample_and_the_context():
    q, context = Categorical(np.zeros((2, 2, 3), np.float32)), np.float32([[1.0, -2.0], [0.5, 3.0]])
    f = lambda z: jnp.sum(jnp.sin(z @ jnp.arange(3.0)), axis=-1)
    relax = BY_NAME["relax"].make(hidden=4)

    @jax.jit
    def slopes(key):
        params, state = relax.init(key, q, context)
        params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # without this the output does not depend on the inputs
        loss = lambda params: relax.estimate(params, state, key, q, f, log_q_weight=1.0, context=context).cv_loss
        return jax.grad(loss)(params)["network"]["params"]["Dense_0"]["kernel"]

    kernel = np.asarray(slopes(jax.random.key(0)))
    assert kernel.shape == (2 * 3 + 2, 4)
    assert np.all(kernel != 0)


def test_the_derivative_of_the_noise_given_z_has_its_closed_form():
    """With the uniform noise fixed, d x_i = (1 - r_i) d l_i + r_i d logsumexp(l) for x given z; see relaxed_control."""
    logits = CATEGORICAL.logits[0]
    perturbed = lambda logits, z: perturb_given(jax.random.key(2), Categorical(logits[None]), z, 500)[:, 0, 0]
    both = jax.jit(lambda z: (perturbed(logits, z), jax.jacobian(perturbed)(logits, z)))
    for z in np.eye(3, dtype=np.float32)[:, None, None]:
        x, jacobian = jax.device_get(both(z))  # [M, C], [M, C, C]
        r = np.exp(x - np.max(x, axis=-1, keepdims=True))[..., None]
        np.testing.assert_allclose(jacobian, (1 - r) * np.eye(3) + r * softmax(logits), atol=1e-5)


def _as_published(*, through_noise=True, together=True, num_samples=2):
    """RELAX by the formula of its paper, which draws x given z anew, with a fixed and crude control variate c."""

    def estimate(key, q, f, reduce, log_q_weight):
        key_x, key_given = jax.random.split(key)
        frozen = stop_gradient(q)
        f_frozen = integrand(f, frozen, log_q_weight)
        c = lambda x: 0.7 * f_frozen(jax.nn.softmax(x / 0.6)) + 0.3 * jnp.sum(jnp.sin(2 * x), axis=(-2, -1))
        x = perturb(key_x, q, num_samples)
        z = harden(x)
        given = perturb_given(key_given, q, z, 1)[0]
        if not through_noise:
            given = q.logits + stop_gradient(given - q.logits)
        values, score = integrand(f, q, log_q_weight)(z), q.log_prob(z)
        residual = stop_gradient(values - c(given))
        product = mean(residual * score) if together else mean(residual) * mean(score)
        return attach(reduce(values), reduce(values) + product + mean(c(x) - c(given)))

    return accept_bits(stateless(estimate))


@pytest.mark.parametrize("family", DISCRETE)
def test_relax_by_the_formula_of_its_paper_is_unbiased(family):
    assert_unbiased(_as_published(), problem(family), mean, oracle(family, "mean", 1), groups=("value", "phi"))


_CONTROLS = {
    "without the derivative through the noise given z": _as_published(through_noise=False),
    "f and score averaged apart": _as_published(together=False),
}


@pytest.mark.parametrize("family", DISCRETE)
@pytest.mark.parametrize("control", _CONTROLS)
def test_negative_control_fails(control, family):
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(
            _CONTROLS[control], problem(family), mean, oracle(family, "mean", 1), groups=("phi",), max_chunks=64
        )


@pytest.mark.parametrize("family", DISCRETE)
def test_relax_equals_rebar_before_training(family):
    toy, grads = problem(family), {}
    for name in ("rebar", "relax"):
        estimator = BY_NAME[name].make(num_samples=3)
        params, _ = jax.jit(estimator.init)(jax.random.key(0), toy.phi, None)
        grads[name] = draw_gradients(
            estimator, toy.phi, toy.integrand(toy.theta), 10, log_q_weight=LOG_Q_WEIGHT, params=params
        ).logits
    np.testing.assert_allclose(grads["relax"], grads["rebar"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "classes"), [("Bernoulli", 2), ("Categorical", 1)])
@pytest.mark.parametrize("name", ["rebar", "relax"])
def test_cv_loss_is_the_squared_length_of_the_whole_gradient(name, family, classes):
    """The gradient includes the direct term. The two classes of a bit have the same gradient except for its sign."""
    toy = problem(family)
    estimator = BY_NAME[name].make(num_samples=3)
    params, state = jax.jit(estimator.init)(jax.random.key(0), toy.phi, None)

    def estimate(q):
        f = toy.integrand(toy.theta)
        result = estimator.estimate(params, state, jax.random.key(1), q, f, mean, LOG_Q_WEIGHT)
        return jnp.sum(result.value), result.cv_loss

    gradient, cv_loss = jax.jit(jax.grad(estimate, has_aux=True))(toy.phi)
    np.testing.assert_allclose(cv_loss, classes * np.sum(np.square(gradient.logits)) / 2, rtol=1e-4)


def _trained_variance(name, t, p=0.5, steps=300):
    """Returns the variance of the gradient of (b - t)^2, b ~ Bernoulli(p), before and after training on cv_loss."""
    q, f = Bernoulli(np.float32([logit(p)])), lambda z: jnp.sum(jnp.square(z - t), axis=-1)
    estimator, tx = make_estimator(name, "mean")[0], optax.adam(0.02)
    before, state = jax.jit(estimator.init)(jax.random.key(0), q, None)

    def loss(params, key):
        keys = jax.random.split(key, 64)
        return jnp.mean(jax.vmap(lambda key: estimator.estimate(params, state, key, q, f).cv_loss)(keys))

    def step(carry, key):
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(params, key), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def train(params, key):
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, steps))
        return params

    after = train(before, jax.random.key(1))
    return [draw_gradients(estimator, q, f, 2**16, params=params).logits.var() for params in (before, after)]


def _reinforce_variance(t, p=0.5):
    """Returns the variance of REINFORCE for the same cost, in closed form."""
    return p * (1 - p) * ((1 - p) * (1 - t) ** 4 + p * t**4) - ((1 - 2 * t) * p * (1 - p)) ** 2


@pytest.mark.parametrize(("name", "t"), [("rebar", 0.1), ("relax", 0.499)])
def test_training_removes_most_of_the_variance_on_one_bernoulli(name, t):
    before, after = _trained_variance(name, t)
    assert before > 1.2 * _reinforce_variance(t)
    assert after < 0.1 * _reinforce_variance(t)


def test_rebar_learns_to_switch_off_a_control_that_does_not_help():
    """f(0) and f(1) are nearly equal, so f at a relaxed sample is no help, and RELAX needs its network."""
    before, after = _trained_variance("rebar", 0.499)
    assert before > 1.2 * _reinforce_variance(0.499)
    np.testing.assert_allclose(after, _reinforce_variance(0.499), rtol=0.02)


def test_rebar_learns_to_use_f_at_the_mean_as_a_baseline():
    """At a high temperature, the relaxed sample is the mean 0.1 of q, and f(0.1) is a good baseline for f(0) and f(1).
    A uniform relaxed sample would be 1/2, where f is nearly 0."""
    _, after = _trained_variance("rebar", 0.499, p=0.1, steps=1000)
    assert after < 0.1 * _reinforce_variance(0.499, p=0.1)


@pytest.mark.parametrize("logits", [[[0.4, 0.0]], [[-1.2, 0.3, 0.8]]])
def test_relaxed_samples_range_from_hard_samples_to_the_mean(logits):
    q = Categorical(np.float32(logits))

    @jax.jit
    def draw(key):
        x = perturb(key, q, 100)
        return harden(x), relax_towards_mean(x, q.logits, 1e-4), relax_towards_mean(x, q.logits, 1e4)

    hard, cold, hot = draw(jax.random.key(0))
    np.testing.assert_allclose(cold, hard, atol=1e-3)
    np.testing.assert_allclose(hot, np.broadcast_to(q.mean, hot.shape), atol=2e-3)
