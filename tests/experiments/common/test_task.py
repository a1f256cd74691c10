"""What a task knows about estimators."""

import jax
import jax.numpy as jnp

from experiments.common import problems
from experiments.common.problems import Start
from experiments.common.problems.problem import TrainedEstimator
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


def test_a_task_has_the_demands_of_all_its_expectations():
    """The first is a mean over samples, and the second an importance-weighted bound."""
    problem = problems.rainforth()

    def both(*arguments):
        problem.bounds["elbo"](*arguments)
        return problem.bounds["iwae"](*arguments)

    task = Task(problem._replace(bounds=problem.bounds | {"both": both}), "both")
    assert task.is_multi_sample
    assert Task(problem, "elbo").refusal("measure_valued") is None
    assert "measure_valued" in task.refusal("measure_valued")


def test_only_a_trained_runs_own_estimator_starts_from_what_it_had_learned():
    own = Start({"scale": jnp.array(3.0)}, {})
    task = Task(problems.coins()._replace(trained=TrainedEstimator("rebar", own)), "elbo")
    assert task.start("rebar", 1) is own
    assert task.start("relax", 1).learned["scale"] == 1
