"""What a task knows about estimators."""

import jax
import jax.numpy as jnp

from experiments.common import problems
from experiments.common.task import Task, make_estimator
from vae import distributions
from vae.estimators import BY_NAME


def test_an_option_reaches_the_estimator():
    q = distributions.Bernoulli(jnp.array([0.3, -1.0]))
    cubed = lambda z: jnp.sum(z, axis=-1) ** 3
    value = lambda estimator: float(estimator.estimate({}, {}, jax.random.key(0), q, cubed).value)
    warm = make_estimator("gumbel_softmax:temperature=3.0", 1)
    assert value(warm) == value(BY_NAME["gumbel_softmax"].make(num_samples=1, temperature=3.0))
    assert value(warm) != value(make_estimator("gumbel_softmax", 1))


def test_only_an_importance_weighted_bound_depends_on_the_number_of_samples():
    problem = problems.rainforth()
    assert not Task(problem, "elbo").is_multi_sample
    assert Task(problem, "iwae").is_multi_sample


def test_an_analytic_kl_excludes_estimators_that_need_the_density():
    problem = problems.linear_gaussian()
    assert Task(problem, "elbo").refusal("stl") is None
    assert "needs log q(z)" in Task(problem, "elbo_analytic").refusal("stl")
