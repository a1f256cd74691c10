"""What an estimator accepts as f: its shape, its type, and its share of log q(z)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import ENTRIES, first_family
from tests.helpers.oracle import MAX_Z, REDUCE, make_estimator, problem
from vae import estimators
from vae.distributions import Bernoulli
from vae.estimators import BY_NAME
from vae.estimators.tools import check_positive
from vae.hierarchy import Markov

WRONG = {
    r"float32 of shape \[\d+, 2, 1\]": lambda values: values[..., None],
    r"float32 of shape \[2\]": lambda values: jnp.mean(values, axis=0),
    r"float32 of shape \[\d+\]": lambda values: jnp.mean(values, axis=1),
    r"float32 of shape \[\]": jnp.mean,
    r"int32 of shape \[\d+, 2\]": lambda values: values.astype(jnp.int32),
    "list": lambda values: [values],
    "float": lambda values: 1.0,
}


def _first_case(name):
    """The first family that fits, and the first bound of the entry."""
    bound = BY_NAME[name].reductions[0]
    return problem(first_family(name, bound)), bound


@pytest.mark.parametrize("name", BY_NAME)
def test_f_of_a_wrong_shape_or_type_is_refused(name):
    toy, bound = _first_case(name)
    estimator, _ = make_estimator(name, bound)
    params, state = jax.eval_shape(estimator.init, jax.random.key(0), toy.posterior(toy.phi))
    for got, change in WRONG.items():

        def value(params, state, change=change):
            expect = estimators.bind(estimator, params, state, jax.random.key(0))
            f = lambda z: change(toy.log_joint(toy.theta, z))
            return expect(toy.posterior(toy.phi), f, REDUCE[bound], log_q_weight=1.0).value

        expected = rf"must return an array of floats of shape \[K, \*batch\] = \[\d+, 2\], got {got}(\n|$)"
        with pytest.raises(ValueError, match=expected):
            jax.eval_shape(value, params, state)


@pytest.mark.parametrize("got", WRONG)
def test_layerwise_refuses_an_f_of_a_wrong_shape_or_type(got):
    logits = jnp.zeros((2, 3))
    q = Markov(Bernoulli(logits), (logits,), (lambda weights, z: Bernoulli(z + weights),))
    estimator = estimators.make("leave_one_out", by_layer=True)
    f = lambda z: WRONG[got](jnp.sum(z[0] + z[1], axis=-1))
    with pytest.raises(ValueError, match=rf"must return an array of floats .* = \[2, 2\], got {got}(\n|$)"):
        estimator.estimate(((), ()), ((), ()), jax.random.key(0), q, f, log_q_weight=1.0)


UNBIASED = [name for name, entry in ENTRIES.items() if not entry.biased and name != "exact"]
# The weight of log q(z) that stands apart, as `log_q_weight`, and the weight that stands inside f. There a function of
# the parameters of q stands beside it, as a divergence in closed form would.
WEIGHTS = {"apart": np.float32([0, 0.5, 1, 0, 0.5]), "inside": np.float32([0, 0, 0, 1, 0.5])}


@pytest.mark.parametrize("name", UNBIASED)
def test_gradients_are_unbiased_for_every_weight_of_log_q(name):
    toy, bound = _first_case(name)
    estimator, num_samples = make_estimator(name, bound)
    exact = BY_NAME["exact"].make(num_samples=num_samples, order=12)

    def gradient(estimator, weights, key):
        def value(q):
            first = jax.tree.leaves(q)[0]
            closed_form = 0.3 * jnp.sum(jnp.square(first), axis=tuple(range(1, first.ndim)))
            f = lambda z: toy.log_joint(toy.theta, z) - weights["inside"] * (q.log_prob(z) + closed_form)
            params, state = estimator.init(jax.random.key(0), q)
            return jnp.sum(estimator.estimate(params, state, key, q, f, REDUCE[bound], weights["apart"]).value)

        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(value)(toy.phi))])

    @jax.jit
    @jax.vmap
    def draws_and_truth(weights):
        draws = jax.vmap(lambda key: gradient(estimator, weights, key))(jax.random.split(jax.random.key(1), 2**13))
        return jnp.mean(draws, axis=0), jnp.std(draws, axis=0) / np.sqrt(len(draws)), gradient(exact, weights, None)

    mean, stderr, truth = map(np.float64, draws_and_truth(WEIGHTS))  # [5, parameters]
    length = np.linalg.norm(truth, axis=-1, keepdims=True)
    assert np.max(stderr / length) < 0.05
    assert np.max(np.abs(mean - truth) / (stderr + 1e-5 * length)) < MAX_Z


BITS = Bernoulli(jnp.zeros((2, 3)))


def _estimate(name="leave_one_out", q=BITS, num_samples=2, context=None, **arguments):
    estimator = BY_NAME[name].make(num_samples=num_samples)

    def value(key):
        params, state = estimator.init(key, q, context)
        f = lambda z: jnp.sum(z, axis=-1)
        return estimator.estimate(params, state, key, q, f, context=context, **arguments).value

    return jax.eval_shape(value, jax.random.key(0))


def test_other_arguments_of_a_wrong_shape_or_type_are_refused():
    scalar = estimators.Reduction(jnp.mean, name="scalar")
    swapped = jnp.zeros((3, 2, 4))
    for message, call in {
        "needs an integer num_samples, got 2.0": lambda: _estimate(num_samples=2.0),
        "needs an integer num_samples, got True": lambda: _estimate("reinforce", num_samples=True),
        r"log_q_weight must be one number, got shape \[2\]": lambda: _estimate(log_q_weight=jnp.ones(2)),
        r"the reduction scalar must turn .*: \[2, 2\] to \[2\], got \[\]": lambda: _estimate(reduce=scalar),
        r"context must begin with .* = \[2, 3\], got \[3, 2, 4\]": lambda: _estimate(
            "nvil", Bernoulli(jnp.zeros((2, 3, 1))), context=swapped
        ),
        r"temperature must be one number, got shape \[2\]": lambda: check_positive(temperature=jnp.ones(2)),
        "reductions of mine must be some of": lambda: estimators.add(
            "mine", estimators.Entry(estimators.reinforce, reductions=("mean_exp",))
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
