"""Bias detection: the diagnostics report no bias for unbiased estimators, and report the bias of biased estimators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import problems
from vae import diagnostics, distributions
from vae.estimators import BY_NAME, scale_cotangent, stateless
from vae.estimators.stl import stl

REPARAM, REINFORCE = (BY_NAME[name].make(num_samples=1) for name in ("reparam", "reinforce"))


@functools.partial(jax.jit, static_argnames=("bound", "estimator", "draws"))
def moments(key, params, data, bound, estimator, draws):
    gradient = functools.partial(diagnostics.make_gradient(bound, estimator), params=params, data=data)
    return diagnostics.gradient_moments(gradient, key, draws, 50, draws // 50)


@jax.jit
def report(moments, truth):
    return diagnostics.report(moments, diagnostics.exactly(truth))


def examine(problem, objective, estimator, num_samples=1, draws=20_000, truth=None):
    """The figures of the estimator against the exact gradient, which is the problem's oracle by default."""
    if truth is None:
        truth = problem.oracle(objective, num_samples)
    bound = problem.bounds[objective]
    return report(moments(jax.random.key(0), problem.params, problem.data, bound, estimator, draws), truth)


def biased(figures):
    return figures["max_abs_z"] > diagnostics.critical_z(figures["size"])


@pytest.mark.parametrize("name", ["reparam", "stl", "leave_one_out"])
def test_unbiased_estimators_are_not_reported_as_biased(name):
    num_samples = BY_NAME[name].min_samples
    found = examine(problems.linear_gaussian(), "elbo", BY_NAME[name].make(num_samples=num_samples), num_samples)
    for part, figures in found.items():
        assert not biased(figures), (part, figures)
        assert figures["relative_stderr"] < 0.05


def test_a_scaled_gradient_is_caught():
    """The pathwise part of the gradient is 2 % too long."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = scale_cotangent(q.rsample(key, 1), jnp.full((1, *q.batch_shape), 1.02))
        return reduce(f(z) - log_q_weight * q.log_prob(z))

    found = examine(problems.linear_gaussian(), "elbo", stateless(estimate), draws=100_000)
    assert biased(found["encoder"])
    assert not biased(found["decoder"])


def test_sticking_the_landing_of_an_importance_weighted_bound_is_caught():
    """The truth is a quadrature for K = 2 samples of a two-dimensional Gaussian. DReG is the control without a bias."""
    problem = problems.from_integrand(
        "toy",
        {"phi": {"mean": np.float32([0.3, -0.2]), "log_var": np.float32([-0.4, 0.2])}},
        posterior=lambda params: distributions.Normal(**params["phi"]),
        f=lambda params, z: -jnp.sum(jnp.square(1.5 * jnp.sin(z) - 1), axis=-1),
        log_q_weight=1.0,
    )
    gradient = diagnostics.make_gradient(problem.bounds["iwae"], BY_NAME["exact"].make(num_samples=2, order=40))
    truth = jax.jit(gradient)(None, problem.params)
    unguarded_stl = stl(2)  # the entry of the table would refuse this bound
    for estimator, caught in ((unguarded_stl, True), (BY_NAME["dreg"].make(num_samples=2), False)):
        found = examine(problem, "iwae", estimator, 2, 50_000, truth)
        assert biased(found["phi"]) == caught, found


@pytest.mark.parametrize("m", [1.0, 2.0])
def test_variances_of_the_quadratic_cost(m):
    """The closed forms for f = (z - k)^2, with m = mu - k and sigma = 1, of the gradients in the mean and the scale."""
    problem = problems.quadratic(1 - m)
    pathwise = examine(problem, "elbo", REPARAM, draws=400_000)
    assert pathwise["phi.mean"]["variance"] == pytest.approx(4, rel=0.02)
    assert pathwise["phi.scale"]["variance"] == pytest.approx(4 * m**2 + 8, rel=0.03)
    score = examine(problem, "elbo", REINFORCE, draws=400_000)
    assert score["phi.mean"]["variance"] == pytest.approx(m**4 + 14 * m**2 + 15, rel=0.05)
    assert score["phi.scale"]["variance"] == pytest.approx(2 * m**4 + 60 * m**2 + 74, rel=0.08)


@pytest.mark.parametrize("name", ["quadratic", "exponential", "cosine", "logistic_regression", "rainforth"])
def test_oracles_agree_with_the_pathwise_gradient(name):
    problem = getattr(problems, name)()
    for objective in set(problem.bounds) & {"elbo", "elbo_analytic"}:
        found = examine(problem, objective, REPARAM)
        for part, figures in found.items():
            assert not biased(figures), (objective, part, figures)
