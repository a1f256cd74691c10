"""The cases of the contract tests, and the programs of each case, which are compiled once."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.oracle import (
    FAMILIES,
    LOG_Q_WEIGHT,
    REDUCE,
    Problem,
    PyTree,
    fits,
    make_estimator,
    problem,
    trained,
)
from vae.distributions import Bernoulli, Categorical, Quantized
from vae.estimators import (
    BY_NAME,
    Estimator,
    Reduction,
    log_mean_exp,
)

KEY = jax.random.key(5)
CORE = ("Normal", "Bernoulli", "Categorical", "Poisson")


# Outside the core families, two cases are fast: one with a full covariance and one with implicit derivatives. All other
# cases outside the core are marked slow. So are cases of counts, which test_counts.py has too, and Categorical cases of
# estimators that also have a Bernoulli case.
FAST = {("reparam", "MultivariateNormal", "mean"), ("reparam", "Gamma", "mean")}


# On these problems `mlmc` and `sumo` are reparam, and `gdreg` is dreg. Other tests show that they are unbiased.
SAME_AS_OTHERS = ("mlmc", "sumo", "gdreg")


# All entries but those that choose among others, which have tests of their own.
ENTRIES = {name: entry for name, entry in BY_NAME.items() if not entry.chooses}


# Estimators that do not differentiate f.
SCORE = [name for name, entry in ENTRIES.items() if not entry.differentiates_f]


def cases(families=tuple(FAMILIES), biased=False):
    """Returns every (name, family, bound) that fits, without the oracle `exact`; `biased` selects the entries."""
    parameters = []
    for (name, entry), family, bound in itertools.product(ENTRIES.items(), families, REDUCE):
        if name != "exact" and entry.biased == biased and fits(entry, FAMILIES[family], bound):
            twice = family == "Poisson" or (family == "Categorical" and fits(entry, Bernoulli, bound))
            again = biased and bound == "log_mean_exp" and "mean" in entry.reductions  # the ELBO shows the bias already
            same = name in SAME_AS_OTHERS
            slow = twice or again or same or (family not in CORE and (name, family, bound) not in FAST)
            parameters.append(pytest.param(name, family, bound, marks=[pytest.mark.slow] if slow else []))
    return parameters


def first_family(name, bound):
    """Returns the first family that fits, among the core families and quantized latents."""
    families = {family: FAMILIES[family] for family in CORE} | {"Quantized": Quantized}
    return next(family for family, q in families.items() if fits(BY_NAME[name], q, bound))


def witness(name):
    """Returns the first family that fits, and the last bound of the entry: for tests that hold for any family."""
    bound = BY_NAME[name].reductions[-1]
    return first_family(name, bound), bound


WITNESSES = [pytest.param(name, *witness(name), id=name) for name in ENTRIES]


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
    for name, entry in ENTRIES.items()
    if witness(name)[0] == "Bernoulli" and fits(entry, Categorical, entry.reductions[-1])
]


# One estimator of each kind: pathwise, with a state, with a network, with coupled samples, and straight-through.
KINDS = ("reparam", "nvil", "relax", "disarm", "reinmax")


OF_EACH_KIND = [
    pytest.param(*case.values, id=case.id, marks=[] if case.id in KINDS else [pytest.mark.slow]) for case in WITNESSES
]


class Case(NamedTuple):
    """An estimator on a toy problem.

    Attributes:
      gradients: the jitted `gradients(weights, phi, theta, key)`. It returns the value `[*batch]`, and the gradients in
        params, phi and theta of the sum of weights["value"] * value and weights["cv_loss"] * cv_loss.
      traces: gets one entry each time `gradients` is traced.
    """

    estimator: Estimator
    problem: Problem
    reduce: Reduction
    params: PyTree
    state: PyTree
    gradients: Callable
    traces: list

    def run(self, phi, theta, key):
        """Returns the value `[*batch]`, and the gradients of its sum in phi and theta."""
        whole = {"value": jnp.ones(theta["x"].shape[:-1]), "cv_loss": jnp.zeros(())}
        value, (_, *grads) = self.gradients(whole, phi, theta, key)
        return value, grads

    def jacobian_row(self, value=(0, 0), cv_loss=0):
        """Returns the gradients in params, phi and theta, for these weights of value `[2]` and cv_loss."""
        weights = {"value": jnp.float32(value), "cv_loss": jnp.float32(cv_loss)}
        return jax.device_get(self.gradients(weights, self.problem.phi, self.problem.theta, KEY)[1])


@functools.cache
def make_case(name, family, bound) -> Case:
    estimator, _ = make_estimator(name, bound)
    toy, reduce, traces = problem(family), REDUCE[bound], []
    params, state = trained(estimator, toy, reduce)

    def gradients(weights, phi, theta, key):
        traces.append(name)

        def weighted(params, phi, theta):
            q, f = toy.posterior(phi), toy.integrand(theta)
            estimate = estimator.estimate(params, state, key, q, f, reduce, LOG_Q_WEIGHT, theta["x"])
            return jnp.sum(weights["value"] * estimate.value) + weights["cv_loss"] * estimate.cv_loss, estimate.value

        grads, value = jax.grad(weighted, (0, 1, 2), has_aux=True)(params, phi, theta)
        return value, grads

    return Case(estimator, toy, reduce, params, state, jax.jit(gradients), traces)


def assert_same(actual, expected, tolerance=2e-4):
    """Asserts that two trees agree up to float32 rounding, relative to the largest entry of each leaf."""

    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1e-3, np.max(np.abs(e), initial=0)))

    jax.tree.map(check, actual, expected)


def is_zero(tree) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(tree)))


def vr_iwae(alpha):
    return Reduction(
        lambda values: log_mean_exp((1 - alpha) * values) / (1 - alpha), name="vr_iwae", shift_equivariant=True
    )
