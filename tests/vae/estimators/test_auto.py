"""`auto` uses one of its candidates, goes on with the one of least error, and never with one that noise favours."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from tests.helpers.flows import make_flow
from tests.helpers.oracle import REDUCE, assert_unbiased, oracle, problem
from vae import estimators
from vae.distributions import Bernoulli, Categorical, Mixture, Normal, Quantized, family
from vae.estimators import Estimator, LogJoint, mean
from vae.estimators.parts import choice as parts_choice
from vae.estimators.parts.candidates import Candidate, fitting
from vae.hierarchy import Markov

DRAWS, DATA, SIZE = 4, 64, 8
TRUTH = 0.1 * np.random.default_rng(0).normal(size=(DATA, SIZE))


def gradients(rng, deviation, bias=0.0):
    """Gradients `[draws, N, P]` around the truth."""
    return np.float32(TRUTH + bias + deviation * rng.normal(size=(DRAWS, DATA, SIZE)))


@jax.jit
def choose(drawn, in_use):
    """The choice among an unbiased, another unbiased and a biased estimator; each evaluates f twice."""
    candidates = {"a": Candidate(None, 2, False), "b": Candidate(None, 2, False), "c": Candidate(None, 2, True)}
    return parts_choice.choose(drawn, candidates, in_use)


def choice(deviations, bias=0.0, in_use=0, seed=0):
    rng = np.random.default_rng(seed)
    drawn = {name: gradients(rng, deviation, bias * (name == "c")) for name, deviation in deviations.items()}
    chosen, errors = choose(drawn, in_use)
    return "abc"[int(chosen)], np.asarray(errors)


def test_the_errors_are_variance_and_squared_bias_times_evaluations():
    """Of the mean over 64 data, in 8 parameters."""
    errors = np.mean([choice({"a": 1.0, "b": 2.0, "c": 0.1}, bias=0.3, seed=seed)[1] for seed in range(50)], axis=0)
    expected = [2 * 8 * 1.0 / 64, 2 * 8 * 4.0 / 64, 2 * (8 * 0.01 / 64 + 8 * 0.09)]
    np.testing.assert_allclose(errors, expected, rtol=0.05)


@pytest.mark.parametrize("in_use", [0, 1, 2])
def test_the_candidate_of_least_error_is_chosen(in_use):
    assert choice({"a": 1.0, "b": 0.5, "c": 1.0}, in_use=in_use)[0] == "b"
    assert choice({"a": 1.0, "b": 1.5, "c": 0.1}, in_use=in_use)[0] == "c"


@pytest.mark.parametrize("in_use", [0, 1, 2])
def test_a_biased_candidate_is_charged_for_its_bias(in_use):
    assert choice({"a": 1.0, "b": 1.5, "c": 0.1}, bias=0.3, in_use=in_use)[0] == "a"


def test_noise_alone_chooses_nothing():
    """Of 200 measurements of equal candidates, a biased one without bias and another unbiased one included."""
    chosen = [choice({"a": 1.0, "b": 1.0, "c": 1.0}, seed=seed)[0] for seed in range(200)]
    assert chosen.count("a") >= 196


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"among": "reinmax-straight_through"}, "among=reinmax-straight_through needs an unbiased estimator"),
        ({"among": "stl-stl"}, "cannot have stl twice"),
        ({"among": "auto-stl"}, "cannot have auto in it"),
        ({"among": "rloo"}, "there is no estimator 'rloo'; here it is called leave_one_out"),
        ({"draws": 1}, "draws at least 2"),
    ],
)
def test_a_list_that_cannot_be_measured_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        estimators.auto(**options)


def test_a_named_candidate_that_does_not_fit_is_refused():
    q = Bernoulli(jnp.zeros((2, 3)))
    estimator = estimators.auto(num_samples=2, among="disarm-stl")
    with pytest.raises(ValueError, match="stl cannot estimate gradients with Bernoulli latents"):
        estimator.init(jax.random.key(0), q)


def test_a_named_candidate_is_judged_by_the_integrand():
    f = LogJoint(lambda z: -jnp.sum(z**2, axis=-1), Q)
    assert set(fitting(("gdreg", "stl"), 2, Q, f, mean, 1.0, None)) == {"gdreg", "stl"}
    with pytest.raises(ValueError, match="gdreg needs .* these estimators can: reparam, stl, reparam_antithetic"):
        fitting(("gdreg", "stl"), 2, Q, f.log_likelihood, mean, 1.0, None)


@pytest.mark.parametrize(
    ("q", "num_samples", "bought"),
    [
        (Normal(jnp.zeros((2, 3)), jnp.zeros((2, 3))), 3, {"reparam": 3, "stl": 3}),
        pytest.param(
            Bernoulli(jnp.zeros((2, 3))), 6, {"disarm": 6, "leave_one_out": 6, "relax": 6}, marks=pytest.mark.slow
        ),
        pytest.param(Categorical(jnp.zeros((2, 3, 4))), 5, {"leave_one_out": 5, "relax": 4}, marks=pytest.mark.slow),
    ],
)
def test_the_budget_buys_evaluations(q, num_samples, bought):
    candidates = fitting((), num_samples, q, None, mean, 1.0, None)
    assert {name: candidate.evaluations for name, candidate in candidates.items()} == bought


EVERY = 4
Q = Normal(jnp.array([[0.3, -1.0], [0.2, 0.1], [1.0, 0.5]]), jnp.full((3, 2), -0.2))


def log_joint(z):
    """Its posterior is q, so sticking the landing has no variance."""
    return jax.lax.stop_gradient(Q).log_prob(z) - 3.0


def run(estimator, keys):
    """The gradients in q and the states of consecutive calls."""

    def step(state, key):
        def value(q):
            estimate = estimator.estimate({"reparam": {}, "stl": {}}, state, key, q, log_joint, mean, 1.0, None)
            return jnp.sum(estimate.value), estimate.state

        gradient, state = jax.grad(value, has_aux=True)(Q)
        return state, (gradient.mean, state)

    _, state = estimator.init(jax.random.key(0), Q)
    return jax.lax.scan(step, state, keys)[1]


def test_it_takes_turns_then_goes_on_with_the_best_and_uses_its_gradient():
    """The calls of two runs are side by side; each is the run alone."""
    estimator = estimators.auto(among="reparam-stl", every=EVERY)
    keys = jax.random.split(jax.random.key(1), (2, 3 * EVERY))
    used, states = jax.jit(jax.vmap(lambda keys: run(estimator, keys)))(keys)
    noisy = np.abs(used).max(axis=(-1, -2)) > 1e-5  # only reparam has noise here
    for row in range(2):
        assert noisy[row].tolist() == [True] * (EVERY // 2) + [False] * (EVERY // 2 + 2 * EVERY)
        assert np.asarray(states.steps["stl"])[row].tolist() == [0, 0, *range(1, 2 * EVERY + EVERY // 2 + 1)]
        assert not np.any(states.error["stl"][row, EVERY - 2])
    assert np.all(states.error["stl"][:, EVERY:] < 1e-6)
    assert np.all(states.error["reparam"][:, EVERY:] > 0.01)
    assert states.figures()["auto/stl/steps"] is states.steps["stl"]


@family
class Weighted:
    """A family of one's own: the name of a field does not say what the data share."""

    weights: Float[Array, "*batch C"]
    shared: dict


class Foreign(NamedTuple):
    """A q that is no family of vae."""

    mean: jax.Array


SHARES = [
    (Weighted(jnp.zeros((3, 5)), {"kernel": jnp.zeros((3, 7))}), 5),
    (Mixture(jnp.zeros((3, 2)), Normal(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2, 4)))), 2 + 2 * (4 + 4)),
    (Foreign(jnp.zeros((3, 6))), 6),
    (make_flow("coupling", dim=4, hidden=2), 4 + 4 + 3),
    (Quantized(jnp.zeros((3, 2, 5)), jnp.zeros((3, 5))), 2 * 5),
    (
        Markov(
            Q, ({"kernel": jnp.zeros((3, 2))},), (lambda weights, z: Normal(z @ weights["kernel"].T, jnp.zeros(3)),)
        ),
        2 + 2,
    ),
]


@pytest.mark.parametrize(("q", "numbers"), SHARES, ids=["own", "mixture", "foreign", "flow", "codes", "layers"])
def test_what_the_data_share_does_not_count_although_its_axis_is_as_long_as_the_batch(q, numbers):
    drawn = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), q)
    [data] = getattr(q, "batch_shape", (3,))
    assert parts_choice.by_datum(drawn, (data,)).shape == (2, data, numbers)


@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_batch_of_one_datum_is_refused(batch):
    q = Normal(jnp.zeros((*batch, 2)), jnp.zeros((*batch, 2)))
    estimator = estimators.auto(among="reparam-stl")
    params, state = estimator.init(jax.random.key(0), q)
    square = lambda z: jnp.sum(jnp.square(z), axis=-1)
    with pytest.raises(ValueError, match="auto compares .* over the data of a batch, and this batch has one"):
        estimator.estimate(params, state, jax.random.key(0), q, square, mean, 1.0, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("among", "family", "index"),
    [("reparam-stl", "Normal", 0), ("reparam-stl", "Normal", 1)]
    + [("disarm-leave_one_out-relax", "Bernoulli", index) for index in range(3)],
)
def test_the_gradient_is_unbiased_whichever_candidate_is_in_use(among, family, index):
    """Each call also measures. A choice takes effect in the next call, so it cannot bias the gradient of its own."""
    made = estimators.auto(num_samples=2, among=among, every=1, draws=2)

    def init(key, q, context=None):
        params, state = made.init(key, q, context)
        return params, state._replace(calls=jnp.int32(1), in_use=jnp.int32(index))

    def estimate(params, state, *arguments, **options):
        fixed = state._replace(calls=jnp.int32(1), in_use=jnp.int32(index))
        return made.estimate(params, fixed, *arguments, **options)

    assert_unbiased(Estimator(init, estimate), problem(family), REDUCE["mean"], oracle(family, "mean", 2))


@pytest.mark.slow
def test_a_choice_by_the_draws_that_are_used_is_biased():
    """The control of the test above: the smaller of two gradients of equal estimators has a bias."""
    keys = jax.random.split(jax.random.key(3), 4096)
    gradient = lambda key: jax.grad(lambda mean: jnp.sum(log_weight(mean, key)))(jnp.array([0.5]))

    def log_weight(mean, key):
        return -0.5 * jnp.square(mean + jax.random.normal(key, (1,)))

    pairs = jax.vmap(lambda key: jax.vmap(gradient)(jax.random.split(key)))(keys)[..., 0]
    smaller = jnp.where(jnp.abs(pairs[:, 0]) < jnp.abs(pairs[:, 1]), pairs[:, 0], pairs[:, 1])
    stderr = float(jnp.std(smaller)) / 64
    assert abs(float(jnp.mean(pairs)) + 0.5) < 4.5 * float(jnp.std(pairs)) / 64
    assert abs(float(jnp.mean(smaller)) + 0.5) > 4.5 * stderr
