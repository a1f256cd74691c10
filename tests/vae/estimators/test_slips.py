"""Estimators with one wrong line, which the oracle must detect, and estimators with more samples than they need."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from scipy import stats

from tests.helpers.oracle import LOG_Q_WEIGHT, REDUCE, assert_unbiased, make_estimator, measure, oracle, problem
from vae import diagnostics
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, Estimator, inject, integrand, log_mean_exp, mean, stateless
from vae.estimators.arms import arms, opposed_samples
from vae.estimators.arsm import _swaps
from vae.estimators.carms import carms
from vae.estimators.disarm import disarm
from vae.estimators.disarm_iw import _couple, disarm_iw
from vae.estimators.double_cv import double_cv
from vae.estimators.parts.control_variates import least_variance, values_and_slopes
from vae.estimators.parts.counting import count_evaluations
from vae.estimators.parts.coupled_pairs import coupled_pairs
from vae.estimators.parts.one_dimension import changed_one_by_one, expected_score, other_values
from vae.estimators.parts.score_function import mean_of_others
from vae.estimators.reparam_rqmc import _normal
from vae.estimators.rodeo import rodeo
from vae.estimators.unordered_set import set_weights


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
        ("reparam_linear_cv", "Normal", mean, 3, 3 + 1),
        ("gumbel_rao", "Bernoulli", mean, 3, 3),  # for any inner_samples
        ("gumbel_softmax", "Categorical", mean, 3, 3),
        ("reinmax", "Bernoulli", mean, 3, 3),
        ("straight_through", "Categorical", mean, 3, 3),
        ("arsm", "Categorical", mean, 2, 2 * (1 + 3)),
        ("carms", "Categorical", mean, 3, 3),
        ("gapped_st", "Bernoulli", mean, 3, 3),
        ("reinmax_rao", "Bernoulli", mean, 3, 3),  # for any inner_samples
        ("generalized_st", "Categorical", mean, 3, 3),
    ],
)
def test_f_is_evaluated_as_often_as_documented(name, family, reduce, num_samples, evaluations):
    toy, estimator = problem(family), BY_NAME[name].make(num_samples=num_samples)
    q = toy.posterior(toy.phi)
    params, state = jax.jit(estimator.init)(jax.random.key(0), q)
    bound = lambda phi, data, expect: expect(q, toy.integrand(toy.theta), reduce, LOG_Q_WEIGHT)
    found = diagnostics.evaluations(bound, estimator, jax.random.key(1), toy.phi, learned=params, counted=state)
    assert found == evaluations


def test_equal_samples_of_two_calls_are_counted_unless_chance_makes_them_equal_in_every_run():
    bit = Bernoulli(jnp.zeros((1, 1)))

    def estimate(watch, key):
        for key_call in jax.random.split(key):
            watch(lambda z: jnp.sum(z, axis=-1))(bit.sample(key_call, 1))

    assert {count_evaluations(estimate, jax.random.key(seed)) for seed in range(4)} == {2}


@pytest.mark.parametrize(
    ("make", "family", "bound", "num_samples"),
    [
        (disarm, "Bernoulli", "mean", 4),
        (disarm, "Bernoulli", "log_mean_exp", 3),
        (arms, "Bernoulli", "mean", 3),
        (disarm_iw, "Categorical", "mean", 4),
        (carms, "Categorical", "mean", 3),
        (double_cv, "Bernoulli", "mean", 3),
        (functools.partial(rodeo, hidden=8), "Bernoulli", "mean", 3),
    ],
)
def test_coupled_estimators_are_unbiased_with_more_samples_than_they_need(make, family, bound, num_samples):
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
        ("arsm", "Categorical", {"num_samples": 3}),
        ("rebar", "Bernoulli", {"num_samples": 3}),
        ("relax", "Bernoulli", {"num_samples": 3}),
        ("reparam_linear_cv", "Normal", {"num_samples": 3}),
        ("reparam_antithetic", "Normal", {"num_samples": 4}),
        ("reparam_rqmc", "Normal", {"num_samples": 8}),
    ],
)
def test_estimators_are_unbiased_with_more_samples_than_they_need(name, family, options):
    assert_unbiased(
        BY_NAME[name].make(**options), problem(family), mean, oracle(family, "mean", options["num_samples"])
    )


def _without_direct_term(make, num_samples):
    inner = make(num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        without = integrand(f, stop_gradient(q), log_q_weight)
        return inner.estimate(params, state, key, q, without, reduce, 0.0, context)

    return Estimator(inner.init, estimate)


def _arms_as_if_independent(num_samples):
    def estimate(key, q, f, reduce, log_q_weight):
        z = opposed_samples(key, q, num_samples)
        values = integrand(f, q, log_q_weight)(z)
        covariance = jnp.sum((values - mean(values))[..., None] * z, axis=0) / (num_samples - 1)
        return reduce(values) + inject(q.logits, covariance, len(q.batch_shape))

    return stateless(estimate)


def _disarm_iw_with(change):
    """DisARM-IW whose ratio is replaced by change(ratio)."""

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
    """The mistake is to give the class from the rest the weight 1, as if there were no top classes."""

    def estimate(key, q, f, reduce, log_q_weight):
        key_z, key_rest = jax.random.split(key)
        f = integrand(f, q, log_q_weight)
        z = q.sample(key_z, 1)
        values = f(z)
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
        f = integrand(f, stop_gradient(q), log_q_weight)
        values, slopes = values_and_slopes(f, q, z)
        score = z - q.mean
        v = values + alpha * jnp.sum(slope_for(slopes) * score, axis=-1)
        back = score_comes_back * alpha * mean(slopes) * q.mean * (1 - q.mean)
        gradient = lambda params: mean((v - mean_of_others(v))[..., None] * score) - back
        return least_variance(params, state, q, reduce(f(z)), gradient)

    return Estimator(lambda key, q, context=None: ({}, {}), estimate)


_CONTROLS = {
    "local DisARM without the direct term": (_without_direct_term(disarm, 2), "Bernoulli", "log_mean_exp"),
    "ARMS without its ratio": (_arms_as_if_independent(3), "Bernoulli", "mean"),
    "DisARM-IW without its ratio": (_disarm_iw_with(jnp.ones_like), "Categorical", "mean"),
    "DisARM-IW with its ratio clipped": (_disarm_iw_with(lambda r: jnp.minimum(r, 0.8)), "Categorical", "mean"),
    "top-k whose rest counts fully": (_top_k_renormalized(), "Categorical", "mean"),
    "double CV that keeps the score of its linear term": (_double_cv_with(mean_of_others, 0.0), "Bernoulli", "mean"),
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
    ("right", "family"),
    [(_disarm_iw_with(lambda r: r), "Categorical"), (_double_cv_with(mean_of_others, 1.0), "Bernoulli")],
)
def test_the_controls_without_their_mistake_are_unbiased(right, family):
    assert_unbiased(right, problem(family), mean, oracle(family, "mean", 2))


def _with_probability_of_the_sample(q, z):
    return 1 - z[None], jax.nn.sigmoid((2 * z[None] - 1) * q.logits)


# Each slip replaces one name in a module by a wrong function: (family, module, name, wrong function). The key begins
# with the name of the estimator.
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
    "carms, as if independent": (
        "Categorical",
        "carms",
        "pair_weight",
        lambda log_odds, n: jnp.ones((*log_odds.shape[:-1], log_odds.shape[-1] + 1)),
    ),
    "arsm, another swap than that of the two classes": (
        "Categorical",
        "arsm",
        "_swaps",
        lambda classes: (_swaps(classes)[0], np.roll(_swaps(classes)[1], 1, axis=0)),
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
    "double_cv, the gradient of the added term not subtracted": (
        "Categorical",
        "double_cv",
        "score_of_linear",
        lambda q, slope: jnp.zeros_like(slope),
    ),
    "muprop, the expansion's gradient forgotten": ("Bernoulli", "muprop", "inject", lambda *arguments: 0.0),
}


@pytest.mark.parametrize("slip", _SLIPS)
def test_a_slip_in_one_line_gives_a_bias(slip, monkeypatch):
    family, module, name, wrong = _SLIPS[slip]
    module = sys.modules[module if module in sys.modules else f"vae.estimators.{module}"]
    monkeypatch.setattr(module, name, wrong)
    estimator, num_samples = make_estimator(slip.split(",")[0], "mean")
    exact = oracle(family, "mean", num_samples)
    report = measure(estimator, problem(family), mean, exact, max_chunks=8)
    assert "phi" in report.biased()


def test_normal_numbers_from_the_first_and_last_random_word_are_symmetric():
    first, last = np.float64(_normal(jnp.array([0, 2**32 - 1], jnp.uint32)))
    np.testing.assert_allclose([first, last], stats.norm.ppf(2.0**-24) * np.array([1, -1]), rtol=1e-5)
