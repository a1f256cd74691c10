"""The cases that the contract is tested over, and one estimator with its programs, compiled once for each case."""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.helpers.problems import (
    FAMILIES,
    LOG_Q_WEIGHT,
    REDUCE,
    fits,
    gradient_program,
    make_estimator,
    problem,
    trained,
)
from vae.distributions import Bernoulli, Categorical
from vae.estimators import (
    BY_NAME,
    Estimator,
    Reduction,
    log_mean_exp,
)

CORE = ("Normal", "Bernoulli", "Categorical")


# Outside the core one fast witness each of a full covariance and of an implicit path. The rest of the square is slow,
# and so is Categorical where Bernoulli already speaks for discrete latents.
FAST = {("reparam", "MultivariateNormal", "mean"), ("reparam", "Gamma", "mean")}


SCORE = [name for name, entry in BY_NAME.items() if not entry.differentiates_f]


def cases(families=tuple(FAMILIES), biased=False):
    """Every (entry, family, bound) that fits, except the oracle itself."""
    found = []
    for (name, entry), family, bound in itertools.product(BY_NAME.items(), families, REDUCE):
        if name != "exact" and entry.biased == biased and fits(entry, FAMILIES[family], bound):
            twice = family == "Categorical" and fits(entry, Bernoulli, bound)
            again = biased and bound == "log_mean_exp" and "mean" in entry.reductions  # the elbo has shown the bias
            slow = twice or again or (family not in CORE and (name, family, bound) not in FAST)
            found.append(pytest.param(name, family, bound, marks=[pytest.mark.slow] if slow else []))
    return found


def witness(name):
    """The entry's hardest bound with the first of the core families that fits: for what is not about the family."""
    entry = BY_NAME[name]
    return next(family for family in CORE if fits(entry, FAMILIES[family], entry.reductions[-1])), entry.reductions[-1]


WITNESSES = [pytest.param(name, *witness(name), id=name) for name in BY_NAME]


# Those of bits are of classes too: an axis more, which is theirs alone. One of each kind is fast.
WITNESSES += [
    pytest.param(
        name,
        "Categorical",
        entry.reductions[-1],
        id=f"{name}-Categorical",
        marks=[] if name in ("relax", "rodeo", "reinmax") else [pytest.mark.slow],
    )
    for name, entry in BY_NAME.items()
    if witness(name)[0] == "Bernoulli" and fits(entry, Categorical, entry.reductions[-1])
]


# One of each kind: a path, a baseline with a state, a network of its own, coupled samples, a straight-through path.
KINDS = ("reparam", "nvil", "relax", "disarm", "reinmax")


OF_EACH_KIND = [
    pytest.param(*case.values, id=case.id, marks=[] if case.id in KINDS else [pytest.mark.slow]) for case in WITNESSES
]


class Setting(NamedTuple):
    estimator: Estimator
    num_samples: int
    problem: object
    reduce: object
    params: object
    state: object
    run: object  # (phi, theta, key) -> ((sum, value), (d phi, d theta)), jitted
    traces: list


@functools.cache
def setting(name, family, bound) -> Setting:
    estimator, num_samples = make_estimator(name, bound)
    toy, reduce, traces = problem(family), REDUCE[bound], []
    params, state = trained(estimator, toy, reduce)
    program = gradient_program(estimator, toy, reduce, params, state)

    def run(phi, theta, key):
        traces.append(name)
        return program(phi, theta, key)

    return Setting(estimator, num_samples, toy, reduce, params, state, jax.jit(run), traces)


@functools.cache
def jacobians(name, family, bound):
    """Of cv_loss `[]` and of value `[B]`, each in (params, phi, theta)."""
    s = setting(name, family, bound)

    def both(params, phi, theta):
        q, f = s.problem.posterior(phi), s.problem.integrand(theta)
        estimate = s.estimator.estimate(params, s.state, jax.random.key(5), q, f, s.reduce, LOG_Q_WEIGHT, theta["x"])
        return estimate.cv_loss, estimate.value

    return jax.jit(jax.jacrev(both, (0, 1, 2)))(s.params, s.problem.phi, s.problem.theta)


def assert_same(actual, expected, tolerance=2e-4):
    """Equal up to float32 rounding, relative to the largest entry of each leaf."""

    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1e-3, np.max(np.abs(e), initial=0)))

    jax.tree.map(check, actual, expected)


def is_zero(tree) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


def vr_iwae(alpha):
    return Reduction(
        lambda values: log_mean_exp((1 - alpha) * values) / (1 - alpha), name="vr_iwae", shift_equivariant=True
    )
