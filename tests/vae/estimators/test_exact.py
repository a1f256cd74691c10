"""The estimator `exact` against another quadrature, and against central differences of an enumerated sum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.oracle import (
    FAMILIES,
    GROUPS,
    REDUCE,
    differentiate_exactly,
    fits,
    oracle,
    problem,
)
from vae.distributions import Bernoulli
from vae.estimators import (
    BY_NAME,
    exact,
    log_mean_exp,
    mean,
)


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", ["Normal", pytest.param("MultivariateNormal", marks=pytest.mark.slow)])
def test_exact_on_gaussians_agrees_with_another_quadrature_rule(family, bound):
    exact = oracle(family, bound, 2)
    other = differentiate_exactly(problem(family), REDUCE[bound], 2, order=22, by="quadrature")
    for group in GROUPS:
        assert _relative(other[group], exact[group]) < (1e-4 if bound == "mean" else 1e-3)


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", ["Bernoulli", "Categorical"])
def test_exact_on_discrete_latents_agrees_with_central_differences_of_a_sum(family, bound):
    exact = oracle(family, bound, 2)
    other = _differences_of_enumeration(family, REDUCE[bound], 1 if bound == "mean" else 2)
    for group in GROUPS:
        assert _relative(other[group], exact[group]) < 1e-6


@pytest.mark.parametrize(
    ("family", "bound", "order"),
    [
        ("Normal", "mean", 24),
        ("Normal", "log_mean_exp", 22),
        pytest.param("MultivariateNormal", "log_mean_exp", 22, marks=pytest.mark.slow),
        *[
            pytest.param(family, bound, 22, marks=pytest.mark.slow)
            for family in ("Laplace", "StudentT", "Gamma", "Beta", "Dirichlet")
            for bound in REDUCE
        ],
    ],
)
def test_a_higher_order_does_not_change_the_oracle(family, bound, order):
    # log(w_1 + w_2) has a sharp bend where w_1 = w_2, so the four-dimensional rule with panels converges slowly. It is
    # compared with a rule of 30 nodes per panel (13 million pairs). `assert_unbiased` cannot detect an error of 1e-3.
    panels = bound == "log_mean_exp" and not fits(BY_NAME["exact"], FAMILIES[family], bound)
    finer, tolerance = (30, 1e-3) if panels else (order + 8, 1e-4)
    coarse, fine = (differentiate_exactly(problem(family), REDUCE[bound], 2, order=n) for n in (order, finer))
    for group in GROUPS:
        assert _relative(coarse[group], fine[group]) < tolerance


def _relative(actual, expected) -> float:
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def _differences_of_enumeration(family, reduce, tuple_size, step=1e-5):
    """Value and gradients by itertools, log q in NumPy, and central differences, without code from vae.estimators."""
    logits = np.float64(problem(family).phi.logits)
    if family == "Bernoulli":
        states = [np.array(bits) for bits in itertools.product([0.0, 1.0], repeat=2)]
        log_q = lambda l, z: np.sum(z * l - np.log1p(np.exp(l)), -1)
    else:
        states = [np.eye(3)[list(c)] for c in itertools.product(range(3), repeat=2)]
        log_q = lambda l, z: np.sum(z * (l - np.log(np.sum(np.exp(l), -1, keepdims=True))), (-2, -1))

    def value(logits, theta):
        rows = [np.asarray(toy.log_joint(theta, np.broadcast_to(z, (1, *logits.shape))))[0] for z in states]
        log_probs = np.stack([log_q(logits, z) for z in states])
        f = np.stack(rows) - log_probs
        total = 0
        for ks in itertools.product(range(len(states)), repeat=tuple_size):
            chosen = f[list(ks)]
            bound = chosen.mean(0) if reduce is mean else np.log(np.mean(np.exp(chosen), 0))
            total = total + np.exp(log_probs[list(ks)].sum(0)) * bound
        return total

    def differences(tree, at):
        leaves, treedef = jax.tree.flatten(tree)
        for i, leaf in enumerate(leaves):
            for index in np.ndindex(leaf.shape):
                ends = []
                for sign in (1, -1):
                    moved = leaf.copy()
                    moved[index] += sign * step
                    ends.append(at(treedef.unflatten([*leaves[:i], moved, *leaves[i + 1 :]])).sum())
                yield (ends[0] - ends[1]) / (2 * step)

    with jax.enable_x64(True):
        toy = problem(family)
        theta = jax.tree.map(np.float64, toy.theta)
        return {
            "value": value(logits, theta),
            "phi": np.array(list(differences(logits, lambda l: value(l, theta)))),
            "theta": np.array(list(differences(theta, lambda t: value(logits, t)))),
        }


def test_a_sum_with_too_many_terms_is_refused():
    q = Bernoulli(jnp.zeros((1, 23)))
    with pytest.raises(ValueError, match="use fewer latent dimensions"):
        BY_NAME["exact"].make().estimate({}, {}, None, q, lambda z: q.log_prob(z), mean)


@pytest.mark.parametrize(
    ("width", "num_samples", "reduce", "terms"), [(23, 1, mean, r"2\^23"), (6, 4, log_mean_exp, r"64\^4")]
)
def test_a_sum_over_too_many_states_is_refused(width, num_samples, reduce, terms):
    q = Bernoulli(jnp.zeros((1, width)))
    with pytest.raises(ValueError, match=f"would sum {terms} terms, more than 2.22"):
        exact(num_samples).estimate({}, {}, None, q, lambda z: jnp.sum(z, axis=-1), reduce)
