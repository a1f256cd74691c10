"""The cases of the contract tests, and the programs of each case, which are compiled once."""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.helpers.oracle import (
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


# Outside the core families, two cases are fast: one with a full covariance and one with implicit derivatives. All other
# cases outside the core are marked slow, and so are Categorical cases of estimators that also have a Bernoulli case.
FAST = {("reparam", "MultivariateNormal", "mean"), ("reparam", "Gamma", "mean")}


# Estimators that do not differentiate f.
SCORE = [name for name, entry in BY_NAME.items() if not entry.differentiates_f]


def cases(families=tuple(FAMILIES), biased=False):
    """Returns every (name, family, bound) that fits, without the oracle `exact`; `biased` selects the entries."""
    parameters = []
    for (name, entry), family, bound in itertools.product(BY_NAME.items(), families, REDUCE):
        if name != "exact" and entry.biased == biased and fits(entry, FAMILIES[family], bound):
            twice = family == "Categorical" and fits(entry, Bernoulli, bound)
            again = biased and bound == "log_mean_exp" and "mean" in entry.reductions  # the ELBO shows the bias already
            slow = twice or again or (family not in CORE and (name, family, bound) not in FAST)
            parameters.append(pytest.param(name, family, bound, marks=[pytest.mark.slow] if slow else []))
    return parameters


def witness(name):
    """Returns the first core family that fits, and the last bound of the entry: for tests that hold for any family."""
    entry = BY_NAME[name]
    return next(family for family in CORE if fits(entry, FAMILIES[family], entry.reductions[-1])), entry.reductions[-1]


WITNESSES = [pytest.param(name, *witness(name), id=name) for name in BY_NAME]


# Estimators that take Bernoulli and Categorical latents are tested with both, because Categorical samples have one axis
# more. Three of these cases, one of each kind of estimator, are fast.
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


# One estimator of each kind: pathwise, with a state, with a network, with coupled samples, and straight-through.
KINDS = ("reparam", "nvil", "relax", "disarm", "reinmax")


OF_EACH_KIND = [
    pytest.param(*case.values, id=case.id, marks=[] if case.id in KINDS else [pytest.mark.slow]) for case in WITNESSES
]


class Setting(NamedTuple):
    """An estimator on a toy problem. `traces` gets one entry each time `run` is traced."""

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
    toy = problem(family)
    reduce = REDUCE[bound]
    traces = []
    params, state = trained(estimator, toy, reduce)
    program = gradient_program(estimator, toy, reduce, params, state)

    def run(phi, theta, key):
        traces.append(name)
        return program(phi, theta, key)

    return Setting(estimator, num_samples, toy, reduce, params, state, jax.jit(run), traces)


@functools.cache
def jacobians(name, family, bound):
    """Returns the Jacobians of cv_loss `[]` and of value `[B]`, each in (params, phi, theta)."""
    case = setting(name, family, bound)

    def both(params, phi, theta):
        q, f = case.problem.posterior(phi), case.problem.integrand(theta)
        estimate = case.estimator.estimate(
            params, case.state, jax.random.key(5), q, f, case.reduce, LOG_Q_WEIGHT, theta["x"]
        )
        return estimate.cv_loss, estimate.value

    return jax.jit(jax.jacrev(both, (0, 1, 2)))(case.params, case.problem.phi, case.problem.theta)


def assert_same(actual, expected, tolerance=2e-4):
    """Asserts that two trees agree up to float32 rounding, relative to the largest entry of each leaf."""

    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1e-3, np.max(np.abs(e), initial=0)))

    jax.tree.map(check, actual, expected)


def is_zero(tree) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


def vr_iwae(alpha):
    return Reduction(
        lambda values: log_mean_exp((1 - alpha) * values) / (1 - alpha), name="vr_iwae", shift_equivariant=True
    )
