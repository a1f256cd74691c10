"""Coupled samples, local expectation and discrete control variates: known facts, and controls that must fail."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from scipy import stats
from vae.estimators.base import stateless
from vae.estimators.coupled_categorical import _couple, coupling_ratio, disarm_iw, stick_log_odds
from vae.estimators.quasi import _normal
from vae.estimators.score_function import others
from vae.estimators.top_k import rao_blackwell_top_k

from tests.helpers.problems import MAX_Z, REDUCE, assert_unbiased, measure, oracle, problem
from vae import diagnostics
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, Estimator, inject, log_mean_exp, mean
from vae.estimators.arm import coupled_pairs, disarm
from vae.estimators.arms import arms, covariance_ratio, opposed_samples
from vae.estimators.double_cv import double_cv, least_variance, values_and_slopes
from vae.estimators.local_expectation import changed_one_by_one, expected_score, other_values
from vae.estimators.rodeo import _Surrogates, rodeo, stein, stein_of_score
from vae.estimators.unordered_set import set_weights, unordered_set


def _gradients(estimator, q, f, draws, *, params=None, seed=0):
    """`draws` gradients of the ELBO's value in the logits, `[draws, *logits]`, in float64."""
    value = lambda q, key: jnp.sum(estimator.estimate(params or {}, {}, key, q, f).value)
    run = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
    return np.float64(run(q, jax.random.split(jax.random.key(seed), draws)).logits)


def _all_bits(width):
    return np.array(list(itertools.product([0.0, 1.0], repeat=width)))


@pytest.mark.parametrize(
    ("name", "family", "reduce", "num_samples", "evaluations"),
    [
        ("arm", "Bernoulli", mean, 4, 4),
        ("disarm", "Bernoulli", log_mean_exp, 3, 6),
        ("arms", "Bernoulli", mean, 3, 3),
        ("double_cv", "Categorical", mean, 3, 3),
        ("rodeo", "Bernoulli", mean, 3, 3),
        ("rodeo", "Categorical", mean, 3, 3),
        ("bitflip", "Bernoulli", mean, 2, 4),
        ("local_expectation", "Bernoulli", mean, 2, 2 * (1 + 2)),
        ("local_expectation", "Categorical", mean, 2, 2 * (1 + 2 * 2)),
        ("rao_blackwell_top_k", "Categorical", mean, 2, 2 * (1 + 2 * 1)),
        ("unordered_set", "Categorical", mean, 2, 2 * (1 + 2)),
        ("arm", "Bernoulli", log_mean_exp, 3, 6),
        ("disarm_iw", "Categorical", log_mean_exp, 2, 4),
        ("rebar", "Bernoulli", mean, 3, 2 * 3),
        ("relax", "Categorical", mean, 3, 2 * 3),
        ("muprop", "Bernoulli", mean, 3, 3 + 1),
        ("gumbel_rao", "Bernoulli", mean, 3, 3),  # whatever its inner samples
        ("gumbel_softmax", "Categorical", mean, 3, 3),
        ("reinmax", "Bernoulli", mean, 3, 3),
        ("straight_through", "Categorical", mean, 3, 3),
    ],
)
def test_they_cost_as_many_evaluations_as_they_say(name, family, reduce, num_samples, evaluations):
    toy, estimator = problem(family), BY_NAME[name].make(num_samples=num_samples)
    q = toy.posterior(toy.phi)
    params, state = estimator.init(jax.random.key(0), q)
    f = toy.integrand(toy.theta)
    value = lambda watch, key: estimator.estimate(params, state, key, q, watch(f), reduce)
    assert diagnostics.evaluations(value, jax.random.key(1)) == evaluations


# Pairs of bits.


@pytest.mark.parametrize(("t", "p"), [(0.45, 0.5), (0.45, 0.1), (0.49, 0.7), (0.499, 0.1)])
def test_variances_of_pairs_on_one_bernoulli(t, p):
    """f = (b - t)^2, in the logit (ESTIMATORS.md C1); ARM's is the integral of (1/2 - u)^2 where the pair differs."""
    q = Bernoulli(jnp.log(jnp.array([p])) - jnp.log1p(-jnp.array([p])))
    f = lambda z: jnp.sum(jnp.square(z - t), axis=-1)
    slope, less, more = (1 - 2 * t) * p * (1 - p), min(p, 1 - p), max(p, 1 - p)
    expected = {
        "arm": (1 - 2 * t) ** 2 * 2 / 3 * (1 / 8 - (1 / 2 - less) ** 3) - slope**2,
        "disarm": (1 - 2 * t) ** 2 * (less * more**2 / 2 - (less * more) ** 2),
        "arms": (1 - 2 * t) ** 2 * (less * more**2 / 2 - (less * more) ** 2),
        "bitflip": 0.0,
    }
    assert expected["disarm"] < expected["arm"]
    for name, variance in expected.items():
        grads = _gradients(BY_NAME[name].make(), q, f, 2**19)
        rounding = 1e-3 * slope**2
        np.testing.assert_allclose(grads.var(), variance, rtol=0.03, atol=rounding)
        assert abs(grads.mean() - slope) < MAX_Z * np.sqrt(max(variance, rounding) / len(grads))


def test_disarm_has_less_variance_than_arm_in_every_coordinate():
    toy = problem("Bernoulli")
    q, f = toy.posterior(toy.phi), lambda z, q: toy.log_joint(toy.theta, z)
    arm, disarm = (_gradients(BY_NAME[name].make(), q, f, 2**17).var(axis=0) for name in ("arm", "disarm"))
    assert np.all(disarm < arm)


def test_arms_of_two_samples_is_disarm():
    """The pair is antithetic, so both are the same function of one uniform."""
    toy = problem("Bernoulli")
    q, f = toy.posterior(toy.phi), lambda z, q: toy.log_joint(toy.theta, z)
    np.testing.assert_allclose(covariance_ratio(q, 2), jax.nn.sigmoid(jnp.abs(q.logits)), rtol=1e-6)

    def couple(key, q, n):
        z, partner = opposed_samples(key, q, 2)
        return z[None], partner[None], 0.5 * jax.nn.sigmoid(jnp.abs(q.logits)) * (z - partner)[None]

    as_pair, as_set = (_gradients(e, q, f, 256) for e in (coupled_pairs(couple, 2), arms(2)))
    np.testing.assert_allclose(as_set, as_pair, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_opposed_samples_follow_q_and_covary_as_arms_says(n):
    q = Bernoulli(jnp.array([-2.5, -0.9, -0.1, 0.4, 1.5]))
    p = np.float64(q.mean)
    draws = 2**18
    z = np.float64(
        jax.jit(jax.vmap(lambda key: opposed_samples(key, q, n)))(jax.random.split(jax.random.key(0), draws))
    )
    assert np.all(np.abs(z.mean(0) - p) < MAX_Z * np.sqrt(p * (1 - p) / draws))
    for i, j in itertools.combinations(range(n), 2):
        products = (z[:, i] - p) * (z[:, j] - p)
        sample_covariance = p * (1 - p) - products.mean(0)  # what half the mean square difference estimates
        expected = p * (1 - p) / np.float64(covariance_ratio(q, n))
        assert np.all(np.abs(sample_covariance - expected) < MAX_Z * products.std(0) / np.sqrt(draws))
        assert np.all(products.mean(0) < 0)


def test_many_opposed_samples_are_all_but_independent():
    np.testing.assert_allclose(covariance_ratio(Bernoulli(jnp.array([-2.0, 0.0, 1.0])), 1000), 1, rtol=0.01)


@pytest.mark.parametrize(
    ("make", "family", "bound", "num_samples"),
    [
        (disarm, "Bernoulli", "mean", 4),
        (disarm, "Bernoulli", "log_mean_exp", 3),
        (arms, "Bernoulli", "mean", 3),
        (disarm_iw, "Categorical", "mean", 4),
        (double_cv, "Bernoulli", "mean", 3),
        (rodeo, "Bernoulli", "mean", 3),
    ],
)
def test_more_samples_than_the_contract_asks_are_unbiased(make, family, bound, num_samples):
    exact = oracle(family, bound, num_samples)
    assert_unbiased(make(num_samples), problem(family), REDUCE[bound], exact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "options"),
    [
        ("muprop", "Bernoulli", {"num_samples": 3}),
        ("measure_valued", "Normal", {"num_samples": 3}),
        ("bitflip", "Bernoulli", {"num_samples": 3}),
        ("local_expectation", "Bernoulli", {"num_samples": 3}),
        ("rao_blackwell_top_k", "Categorical", {"num_samples": 2, "k": 2}),
        ("unordered_set", "Categorical", {"num_samples": 3}),
        ("rebar", "Bernoulli", {"num_samples": 3}),
        ("relax", "Bernoulli", {"num_samples": 3}),
        ("reparam_linear_cv", "Normal", {"num_samples": 3}),
        ("reparam_antithetic", "Normal", {"num_samples": 4}),
        ("reparam_rqmc", "Normal", {"num_samples": 8}),
    ],
)
def test_every_estimator_takes_more_samples_than_it_needs(name, family, options):
    assert_unbiased(
        BY_NAME[name].make(**options), problem(family), mean, oracle(family, "mean", options["num_samples"])
    )


@pytest.mark.parametrize("name", ["arm", "disarm", "disarm_iw"])
def test_an_odd_number_of_coupled_samples_is_refused_for_the_mean_alone(name):
    toy = problem("Categorical" if name == "disarm_iw" else "Bernoulli")
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    estimate = lambda reduce: BY_NAME[name].make(num_samples=3).estimate({}, {}, jax.random.key(0), q, f, reduce).value
    with pytest.raises(ValueError, match="must be even, got 3"):
        estimate(mean)
    assert jax.eval_shape(lambda: estimate(log_mean_exp)).shape == (2,)


# Pairs of categories.

_LOGITS = {
    "unlike": [0.5, -0.7, 0.1, 2.0],
    "alike": [0.0, 0.0, 0.0, 0.0],
    "peaked": [-20.0, 5.0, -3.0, 5.0],
    "two": [0.3, -0.9],
    "many": list(np.linspace(-1, 1, 12)),
}


def _joint_of_ranks(shares):
    """P(z, partner) over ranks, by summing over what becomes of the two walks at each stop."""
    classes = len(shares) + 1
    joint = np.zeros((classes, classes))
    both_walk, first_walks, second_walks = 1.0, np.zeros(classes), np.zeros(classes)  # the other's rank is the index
    for i, s in enumerate([*shares, 1.0]):
        joint[i] += first_walks * s  # the first stops here, the second has stopped before
        joint[:, i] += second_walks * s
        joint[i, i] += both_walk * max(2 * s - 1, 0)
        first_walks, second_walks = first_walks * (1 - s), second_walks * (1 - s)
        one = both_walk * min(s, 1 - s)
        first_walks[i] += one  # the second alone stops
        second_walks[i] += one
        both_walk *= max(1 - 2 * s, 0)
    return joint


@pytest.mark.parametrize("case", _LOGITS)
def test_the_categorical_ratio_is_that_of_the_enumerated_coupling(case):
    logits = np.sort(np.float64(_LOGITS[case]))
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
    # The gradient of E[f], f a table: sum of P(z, partner) ratio (f - f')(e_z - e_z') / 2.
    f = np.random.default_rng(0).normal(size=len(q))
    weight = joint * ratio * (f[:, None] - f[None])
    np.testing.assert_allclose((weight.sum(1) - weight.sum(0)) / 2, q * (f - q @ f), atol=1e-9)
    if case == "two":
        np.testing.assert_allclose(table[0], 1 / (1 + np.exp(-abs(logits[0] - logits[1]))), rtol=1e-9)


def test_categorical_pairs_are_drawn_from_the_enumerated_coupling():
    logits, draws = np.float32(_LOGITS["unlike"]), 2**18
    couple = jax.jit(lambda key, q: _couple(key, q, draws))
    z, partner, weight = couple(jax.random.key(0), Categorical(jnp.asarray(logits)[None]))
    counts = np.float64(jnp.einsum("kc,ke->ce", z[:, 0], partner[:, 0], precision="highest")) / draws
    order = np.argsort(logits)
    log_odds = np.float64(stick_log_odds(jnp.asarray(logits[order])))
    joint = np.zeros_like(counts)
    joint[np.ix_(order, order)] = _joint_of_ranks(1 / (1 + np.exp(-log_odds)))
    assert np.all(np.abs(counts - joint) <= MAX_Z * np.sqrt(joint * (1 - joint) / draws))
    assert np.all(np.isfinite(weight))


# Local expectation.


@pytest.mark.parametrize(
    ("name", "family"), [("local_expectation", Bernoulli), ("local_expectation", Categorical), ("bitflip", Bernoulli)]
)
def test_local_expectation_of_one_dimension_is_exact(name, family):
    logits = jnp.array([0.8]) if family is Bernoulli else jnp.array([[0.5, -0.7, 0.1, 1.2]])
    table = jnp.array([1.7, -0.4, 2.2, 0.3])
    log_joint = lambda z: jnp.sum(jnp.sin(z @ table[: logits.shape[-1]][:, None] + 0.3).reshape(len(z), -1), axis=-1)
    f = lambda z: log_joint(z) - q.log_prob(z)
    exact = jax.jit(jax.grad(lambda q: BY_NAME["exact"].make().estimate({}, {}, None, q, f).value))
    exact = exact(family(logits)).logits
    grads = _gradients(BY_NAME[name].make(), family(logits), f, 64)
    np.testing.assert_allclose(grads, np.broadcast_to(exact, grads.shape), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_unordered_sets_by_enumeration(k):
    """Every order in which k of 4 classes can be drawn: the weights make an expectation of the drawn f's, and the
    gradient of one dimension is exact; for all classes, and for k = 2 in closed form, so are the weights."""
    p, f = np.array([0.5, 0.2, 0.25, 0.05]), np.array([1.3, -0.6, 0.2, 2.0])
    orders = np.array(list(itertools.permutations(range(4), k))).T  # [k, orders]
    left = 1 - np.cumsum(p[orders], axis=0) + p[orders]
    probability = np.prod(p[orders] / left, axis=0)
    with jax.enable_x64(True):
        weight, control = map(np.asarray, jax.jit(set_weights)(jnp.log(p), jnp.eye(4)[orders]))
    np.testing.assert_allclose(np.sum(probability * weight * f[orders]), p @ f, rtol=1e-9)
    np.testing.assert_allclose(np.sum(control, axis=1), 1, rtol=1e-9)
    signal = probability * weight * (f[orders] - np.einsum("stn,tn->sn", control, f[orders]))
    gradient = np.einsum("sn,snc->c", signal, np.eye(4)[orders] - p)
    np.testing.assert_allclose(gradient, p * (f - p @ f), atol=1e-9)
    if k == 2:
        not_this = 1 - p[orders]
        np.testing.assert_allclose(weight, not_this[::-1] / np.sum(not_this, axis=0), rtol=1e-9)
    if k == 4:
        np.testing.assert_allclose(weight, p[orders], rtol=1e-9)


def test_an_unordered_set_of_all_classes_is_exact_in_one_dimension():
    q, table = Categorical(jnp.array([[0.5, -0.7, 0.1, 1.2]])), jnp.array([1.7, -0.4, 2.2, 0.3])
    f = lambda z: z[:, 0] @ table
    grads = _gradients(unordered_set(k=4), q, f, 64)
    np.testing.assert_allclose(
        grads[:, 0], np.broadcast_to(q.mean[0] * (table - q.mean[0] @ table), (64, 4)), atol=1e-6
    )


@pytest.mark.parametrize("make", [rao_blackwell_top_k, unordered_set])
def test_more_classes_than_there_are_is_refused(make):
    q = Categorical(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="classes"):
        make(k=4).estimate({}, {}, jax.random.key(0), q, lambda z, q: jnp.sum(z, axis=(-1, -2)))


# Control variates.


def _with_params(estimator, **changed):
    """The estimator with these params, whatever its own would be."""

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        return estimator.estimate(params | changed, state, key, q, f, reduce, context)

    return Estimator(estimator.init, estimate)


def test_double_cv_of_a_linear_function_is_exact_at_minus_one():
    q = Bernoulli(jnp.array([0.8, -1.3, 0.1]))
    slope = jnp.array([1.0, -2.0, 0.7])
    f = lambda z: z @ slope + 4.0
    grads = _gradients(double_cv(2), q, f, 64, params={"alpha": jnp.float32(-1)})
    np.testing.assert_allclose(grads, np.broadcast_to(slope * q.mean * (1 - q.mean), grads.shape), atol=1e-5)


def test_double_cv_with_the_wrong_sign_is_unbiased_and_worse():
    spread = []
    for alpha in (-0.5, 0.0, 0.5):
        estimator, exact = _with_params(double_cv(2), alpha=jnp.float32(alpha)), oracle("Bernoulli", "mean", 2)
        report = assert_unbiased(estimator, problem("Bernoulli"), mean, exact, groups=("phi",))
        spread.append(report.relative_stderr["phi"] * np.sqrt(report.draws))
    assert spread[0] < 0.95 * spread[1] < 0.9 * spread[2], spread


@pytest.mark.parametrize(
    ("make", "family"),
    [(double_cv, "Bernoulli"), (double_cv, "Categorical"), (rodeo, "Bernoulli"), (rodeo, "Categorical")],
)
def test_cv_loss_is_the_squared_length_of_the_gradient(make, family):
    toy, key, estimator = problem(family), jax.random.key(4), make(3)
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    params, state = estimator.init(jax.random.key(0), q)
    params = params | {"alpha": jnp.float32(-0.7)} | ({"beta": jnp.float32(0.4)} if "beta" in params else {})

    def value_and_loss(q):
        estimate = estimator.estimate(params, state, key, q, f)
        return jnp.sum(estimate.value), estimate.cv_loss

    grad, cv_loss = jax.jit(jax.grad(value_and_loss, has_aux=True))(q)
    np.testing.assert_allclose(cv_loss, np.sum(np.square(grad.logits)) / len(grad.logits), rtol=1e-5)


def test_rodeos_broken_lines_are_its_network():
    """Values and derivatives of the plain network, at changes on both sides of all knots; one unit is flat."""
    levels, changes, weights = (
        jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(3, 2), (3, 2, 40), (2, 3, 2, 40)])
    )
    levels, changes = 10 * levels, changes * 10 ** jnp.linspace(-2, 4, 40)
    params = _Surrogates(7).init(jax.random.key(3), levels, changes)["params"]
    params = params | {"inner": params["inner"].at[1, 2].set(0), "inner_bias": jnp.linspace(-1, 1, 7)}

    def plain(params):
        x = jnp.stack(jnp.broadcast_arrays(levels[..., None], changes), axis=-1)
        x = jax.nn.leaky_relu(x @ params["inner"] + params["inner_bias"], 0.3)
        return jnp.moveaxis(x @ params["outer"] + params["outer_bias"], -1, 0)

    broken = lambda params: jnp.stack(_Surrogates(7).apply({"params": params}, levels, changes))
    np.testing.assert_allclose(broken(params), plain(params), rtol=1e-5, atol=1e-5)
    slope = lambda h: jax.grad(lambda params: jnp.sum(weights * h(params)))(params)
    for found, true in zip(*map(jax.tree.leaves, (slope(broken), slope(plain))), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("make", "most"), [(double_cv, 0.75), (rodeo, 0.25)])
def test_learning_its_control_lowers_the_variance_of_leave_one_out_and_keeps_the_mean(make, most):
    """Direct term and all: what is left of leave-one-out's variance is 0.64 with double CV and 0.10 with RODEO."""
    toy, estimator = problem("Bernoulli"), make(2)
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    params, state = estimator.init(jax.random.key(0), q)

    def loss(params, key):
        keys = jax.random.split(key, 256)
        return jnp.mean(jax.vmap(lambda key: estimator.estimate(params, state, key, q, f).cv_loss)(keys))

    def step(params, key):
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params, key)), None

    keys = jax.random.split(jax.random.key(1), 200)
    learned, _ = jax.jit(lambda params: jax.lax.scan(step, params, keys))(params)
    grads = _gradients(estimator, q, f, 2**15, params=learned)
    plain = _gradients(BY_NAME["leave_one_out"].make(num_samples=2), q, f, 2**15).var(axis=0).sum()
    assert grads.var(axis=0).sum() < most * plain
    error = np.ravel(grads.mean(axis=0)) - oracle("Bernoulli", "mean", 2)["phi"]
    assert np.all(np.abs(error) < MAX_Z * np.ravel(grads.std(axis=0)) / np.sqrt(len(grads)))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_stein_operator_has_mean_zero_and_is_what_its_definition_says(classes):
    """Every state of three bits or classes and any table h, weighted by q; A(h score) by moving the state itself."""
    width, rng = 3, np.random.default_rng(0)
    states = np.array(list(itertools.product(range(classes), repeat=width)))  # [states, D]
    table = rng.normal(size=[classes] * width)
    one_hot = (lambda states: np.float64(states)) if classes == 2 else (lambda states: np.eye(classes)[states])
    with jax.enable_x64(True):
        q = (
            Bernoulli(jnp.array([0.8, -1.3, 0.1]))
            if classes == 2
            else Categorical(jnp.asarray(rng.normal(size=(3, 3))))
        )
        z = jnp.asarray(one_hot(states))
        moves, probability = other_values(q, z)
        weight, p = np.asarray(jnp.exp(q.log_prob(z))), np.asarray(q.mean)
        score = z - p
        h, h_moved, defined = table[tuple(states.T)], np.zeros(probability.shape), 0.0
        for i, step in itertools.product(range(width), range(1, classes)):
            moved = states.copy()
            moved[:, i] = (moved[:, i] - step) % classes  # as the roll of one-hot rows; a flip for bits
            [a] = [a for a in range(classes - 1) if np.all(np.asarray(moves)[a, :, i] == one_hot(moved)[:, i])]
            h_moved[a, :, i] = table[tuple(moved.T)]
            rate, event = np.asarray(probability)[a, :, i], (-1,) + (1,) * (score.ndim - 1)
            change = table[tuple(moved.T)].reshape(event) * (one_hot(moved) - p) - h.reshape(event) * np.asarray(score)
            defined += rate.reshape(event) * change / width
        scalar = np.asarray(stein(probability, h, h_moved))
        vector = np.asarray(stein_of_score(probability, moves - z, score, h, h_moved))
    np.testing.assert_allclose(weight @ scalar, 0, atol=1e-12)
    np.testing.assert_allclose(np.tensordot(weight, vector, 1), 0, atol=1e-12)
    np.testing.assert_allclose(vector, defined, atol=1e-12)


# Controls that must fail: each is a mistake that was published, or is easily made.


def _without_direct_term(make, num_samples):
    inner = make(num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        return inner.estimate(params, state, key, q, lambda z, q: f(z, stop_gradient(q)), reduce, context)

    return Estimator(inner.init, estimate)


def _arms_as_if_independent(num_samples):
    def estimate(key, q, f, reduce, log_q_weight):
        z = opposed_samples(key, q, num_samples)
        values = f(z, q)
        covariance = jnp.sum((values - mean(values))[..., None] * z, axis=0) / (num_samples - 1)
        return reduce(values) + inject(q.logits, covariance, len(q.batch_shape))

    return stateless(estimate)


def _disarm_iw_with(change):
    """The weight of DisARM-IW with another ratio."""

    def couple(key, q, n):
        z, partner, weight = _couple(key, q, n)
        ratio = (
            2
            * jnp.sum(jnp.abs(weight), -1, keepdims=True)
            / jnp.maximum(1, jnp.sum(jnp.abs(z - partner), -1, keepdims=True))
        )
        return z, partner, 0.5 * change(ratio) * (z - partner)

    return coupled_pairs(couple, 2)


def _top_k_renormalized():
    """The class that speaks for the rest by its renormalized probability, as if there were no top."""

    def estimate(key, q, f, reduce, log_q_weight):
        key_z, key_rest = jax.random.split(key)
        z = q.sample(key_z, 1)
        values = f(z, q)
        top = jax.nn.one_hot(jnp.argmax(q.logits, axis=-1), q.logits.shape[-1])
        rest = Categorical(jnp.where(top == 1, -jnp.inf, q.logits)).sample(key_rest, 1)
        both = jnp.stack([jnp.broadcast_to(top, z.shape), rest])
        probability = jnp.stack([jnp.sum(top * q.mean, -1), jnp.ones(q.logits.shape[:-1])])[:, None]
        differences = changed_one_by_one(f, q, z, both) - values[..., None]
        return reduce(values) + inject(q.logits, expected_score(q, both, probability * differences), 1)

    return stateless(estimate)


def _double_cv_with(slope_for, score_comes_back, alpha=-1.0):
    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        z = q.sample(key, 2)
        values, slopes = values_and_slopes(f, q, z)
        score = z - q.mean
        v = values + alpha * jnp.sum(slope_for(slopes) * score, axis=-1)
        back = score_comes_back * alpha * mean(slopes) * q.mean * (1 - q.mean)
        gradient = lambda params: mean((v - others(v))[..., None] * score) - back
        return least_variance(params, state, q, lambda q: reduce(f(z, q)), gradient)

    return Estimator(lambda key, q, context=None: ({}, {}), estimate)


_CONTROLS = {
    "local DisARM without the direct term": (_without_direct_term(disarm, 2), "Bernoulli", "log_mean_exp"),
    "ARMS without its ratio": (_arms_as_if_independent(3), "Bernoulli", "mean"),
    "DisARM-IW without its ratio": (_disarm_iw_with(jnp.ones_like), "Categorical", "mean"),
    "DisARM-IW with its ratio clipped": (_disarm_iw_with(lambda r: jnp.minimum(r, 0.8)), "Categorical", "mean"),
    "top-k whose rest counts fully": (_top_k_renormalized(), "Categorical", "mean"),
    "double CV that keeps the score of its linear term": (_double_cv_with(others, 0.0), "Bernoulli", "mean"),
    "double CV with the sample's own slope": (_double_cv_with(lambda slopes: slopes, 1.0), "Bernoulli", "mean"),
}


@pytest.mark.parametrize("control", _CONTROLS)
def test_negative_control_fails(control):
    estimator, family, bound = _CONTROLS[control]
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(
            estimator, problem(family), REDUCE[bound], oracle(family, bound, 2), groups=("phi",), max_chunks=64
        )


@pytest.mark.parametrize(
    ("right", "family"), [(_disarm_iw_with(lambda r: r), "Categorical"), (_double_cv_with(others, 1.0), "Bernoulli")]
)
def test_the_controls_with_their_mistake_mended_are_right(right, family):
    assert_unbiased(right, problem(family), mean, oracle(family, "mean", 2))


def _with_probability_of_the_sample(q, z):
    return 1 - z[None], jax.nn.sigmoid((2 * z[None] - 1) * q.logits)


# One line of an estimator's module, wrong: what it stands for, and what stands in its place.
_SLIPS = {
    "measure_valued, Maxwell of one side": (
        "Normal",
        "jax.random",
        "rademacher",
        lambda key, shape, t: jnp.ones(shape),
    ),
    "measure_valued, halved": (
        "Normal",
        "measure_valued",
        "inject",
        lambda tree, grads, n: 0.5 * inject(tree, grads, n),
    ),
    "bitflip, always the first bit": (
        "Bernoulli",
        "jax.random",
        "randint",
        lambda key, shape, *ends: jnp.zeros(shape, int),
    ),
    "local_expectation, the sample's probability": (
        "Bernoulli",
        "local_expectation",
        "other_values",
        _with_probability_of_the_sample,
    ),
    "unordered_set, as if drawn with replacement": (
        "Categorical",
        "unordered_set",
        "set_weights",
        lambda log_probs, chosen: (jnp.exp(jnp.sum(chosen * log_probs, axis=-1)), set_weights(log_probs, chosen)[1]),
    ),
    "rodeo, moves of equal probability": (
        "Categorical",
        "rodeo",
        "other_values",
        lambda q, z: (other_values(q, z)[0], jnp.full_like(other_values(q, z)[1], 0.3)),
    ),
    "rodeo, a control whose mean is not zero": (
        "Categorical",
        "rodeo",
        "stein",
        lambda probability, h, h_moved: jnp.mean(jnp.sum(probability * h_moved, axis=0), axis=-1),
    ),
    "double_cv, what was added is not taken back": (
        "Categorical",
        "double_cv",
        "score_of_linear",
        lambda q, slope: jnp.zeros_like(slope),
    ),
    "muprop, the expansion's gradient forgotten": ("Bernoulli", "muprop", "inject", lambda *arguments: 0.0),
}


@pytest.mark.parametrize("slip", _SLIPS)
def test_a_slip_in_one_line_is_caught(slip, monkeypatch):
    family, module, line, wrong = _SLIPS[slip]
    module = sys.modules[module if module in sys.modules else f"vae.estimators.{module}"]
    monkeypatch.setattr(module, line, wrong)
    entry = BY_NAME[slip.split(",")[0]]
    exact = oracle(family, "mean", entry.min_samples)
    report = measure(entry.make(), problem(family), mean, exact, max_chunks=8)
    assert "phi" in report.biased()


def test_the_last_of_all_random_words_is_as_far_out_as_the_first():
    first, last = np.float64(_normal(jnp.array([0, 2**32 - 1], jnp.uint32)))
    np.testing.assert_allclose([first, last], stats.norm.ppf(2.0**-24) * np.array([1, -1]), rtol=1e-5)
