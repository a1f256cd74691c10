"""The problems: their names and options, and integrands with and without a density."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import problems
from experiments.common.task import Task
from vae import distributions
from vae.estimators import BY_NAME, bind


def test_a_problem_is_made_by_name_and_options():
    problem = problems.make("coins:target=0.3:batch_size=2")
    assert problem.data["target"].tolist() == pytest.approx([0.3, 0.3])
    assert problem.identity == "coins:target=0.3:batch_size=2"
    assert problems.make("coins:target=0.45").identity == "coins"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("quantized:width=0", "^quantized:width=0: width must be above 0, got 0"),
        ("quantized:width=30", "^quantized:width=30: width must be at most 8"),
        ("table:dimensions=70", "^table:dimensions=70: dimensions must be at most 20"),
        ("coins:batch_size=-1", "^coins:batch_size=-1: batch_size must be above 0"),
        ("quantized:sigma=0", "^quantized:sigma=0.0: sigma must be above 0"),
        ("classes:categories=1", "^classes:categories=1: categories must be at least 2, got 1"),
    ],
)
def test_an_option_out_of_its_range_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        problems.make(text)


def test_log_q_weight_subtracts_the_density():
    phi = {"logits": jnp.array([0.3, -0.8])}
    f = lambda params, z: jnp.sum(z, axis=-1)
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    exact = BY_NAME["exact"].make(num_samples=1)

    def value(weight):
        problem = problems.from_integrand("mine", {"phi": phi}, posterior, f, log_q_weight=weight)
        expect = bind(exact, {}, {}, jax.random.key(0))
        return float(problem.bounds["elbo"](problem.params, problem.data, expect).value)

    p = 1 / (1 + jnp.exp(-phi["logits"]))
    entropy = float(-jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log(1 - p)))
    assert value(0.0) == pytest.approx(float(jnp.sum(p)), rel=1e-5)
    assert value(1.0) == pytest.approx(float(jnp.sum(p)) + entropy, rel=1e-5)


@pytest.mark.parametrize("name", problems.BY_NAME)
def test_an_oracle_knows_nothing_about_a_bound_that_may_differ_from_the_elbo(name):
    problem = problems.make(name)
    assert problem.oracle("elbo", 3) is not None
    assert problem.oracle("half_kl", 1) is None
    assert problem.oracle("ula", 1) is None
    assert problem.oracle("iwae", 3) is None


@pytest.mark.parametrize("objective", ["iwae", "renyi", "thermodynamic"])
def test_with_one_sample_a_bound_of_importance_weights_has_the_gradient_and_the_oracle_of_the_elbo(objective):
    problem = problems.linear_gaussian()

    def gradient(objective):
        task = Task(problem, objective)
        return task.gradient("reparam", 1)(jax.random.key(0), *task.arguments(task.start("reparam", 1)))

    jax.tree.map(np.testing.assert_array_equal, problem.oracle(objective, 1), problem.oracle("elbo", 1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, gradient(objective), gradient("elbo"))
