"""The true gradient: a sum, a quadrature or a reference."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import problems
from experiments.common.budget import Refused
from experiments.common.candidates import Case
from experiments.common.measuring import Protocol, measure
from experiments.common.store import Store
from experiments.common.task import Task
from experiments.compare_estimators.truth import (
    _choose_method,
    _samples_of_reference,
    find_truth,
    sum_or_quadrature,
)
from vae import diagnostics, distributions
from vae.diagnostics.expectations import Expectation
from vae.estimators import log_mean_exp, mean

PHI = {"mean": jnp.array([0.2]), "log_var": jnp.array([0.1])}
SMOOTH = lambda params, z: jnp.sin(z[..., 0])
KINKED = lambda params, z: jnp.abs(z[..., 0] - 1)


def task(f, phi=PHI, objective="elbo"):
    posterior = lambda params: distributions.Normal(**params["phi"])
    return Task(problems.from_integrand("", {"phi": phi}, posterior, f, log_q_weight=0.0), objective)


def test_a_smooth_cost_is_a_quadrature():
    how, gradient = sum_or_quadrature(task(SMOOTH), 1)
    assert how == "quadrature, order 96"
    mean, log_var = (np.float64(PHI[name][0]) for name in ("mean", "log_var"))
    expected = np.cos(mean) * np.exp(-np.exp(log_var) / 2)
    np.testing.assert_allclose(gradient["phi"]["mean"], [expected], rtol=1e-12)  # in float64


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_a_kinked_cost_is_no_quadrature(size):
    assert sum_or_quadrature(task(lambda params, z: SMOOTH(params, z) + size * KINKED(params, z)), 1) is None


def test_many_dimensions_are_no_quadrature():
    wide = {"mean": jnp.zeros(9), "log_var": jnp.zeros(9)}
    assert sum_or_quadrature(task(SMOOTH, wide), 1) is None


def expectations(q, reduce=mean):
    return [Expectation(q, reduce, 0.0, lambda z: jnp.sum(z, axis=-1))]


def test_a_quadrature_has_at_most_as_many_terms_as_sixteen_bits_have_states():
    normal = expectations(distributions.Normal(jnp.zeros(2), jnp.zeros(2)), log_mean_exp)
    assert [_choose_method(normal, samples) for samples in (1, 2, 3)] == [(False, 96), (False, 16), None]


@pytest.mark.parametrize(
    ("batch", "bits", "reduce", "samples"),
    [((), 16, mean, 1), ((64,), 10, mean, 1), ((64,), 11, mean, 1), ((), 5, log_mean_exp, 3), ((), 5, log_mean_exp, 4)],
)
def test_the_laboratory_sums_over_states_where_the_library_does(batch, bits, reduce, samples):
    recorded = expectations(distributions.Bernoulli(jnp.zeros((*batch, bits))), reduce)
    name, _ = diagnostics.choose_reference(recorded, samples)
    assert _choose_method(recorded, samples) == ((True, 1) if name == "exact" else None)


def test_the_terms_of_a_sum_are_tuples_of_samples_only_if_the_bound_depends_on_their_number():
    """Nine bits have 512 states and 2^18 pairs of them."""
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    f = lambda params, z: jnp.sum(z, axis=-1)
    problem = problems.from_integrand("", {"phi": {"logits": jnp.zeros(9)}}, posterior, f)
    how, gradient = sum_or_quadrature(Task(problem, "elbo"), 2)
    assert how == "sum over all states"
    np.testing.assert_allclose(gradient["phi"]["logits"], np.full(9, 0.25))
    assert sum_or_quadrature(Task(problem, "iwae"), 2) is None


def test_codes_that_are_certain_have_no_reference(monkeypatch, tmp_path):
    """The reference would give the encoding a gradient, and the exact one is zero almost everywhere."""
    protocol = Protocol(100, 100, "reparam", 10, 100, 0, 0, 0.95, 3)
    monkeypatch.setattr(Task, "posterior", SimpleNamespace(is_deterministic=True))
    with pytest.raises(Refused, match="the codes of this posterior are certain"):
        find_truth(task(KINKED), 1, protocol, Store(tmp_path))


def test_a_reference_that_would_change_the_bound_is_refused(tmp_path):
    protocol = Protocol(100, 100, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    with pytest.raises(Refused, match="needs K=2, and --objective=iwae is a different bound for K=1"):
        find_truth(task(KINKED, objective="iwae"), 1, protocol, Store(tmp_path))
    assert [_samples_of_reference(task(KINKED, objective="iwae"), "leave_one_out", k) for k in (2, 3)] == [2, 3]


def test_a_reference_may_have_more_samples_where_the_gradient_is_the_same(tmp_path):
    protocol = Protocol(100, 100, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    known = find_truth(task(KINKED), 1, protocol, Store(tmp_path))
    assert known.source == "mean of 100 draws of leave_one_out, K=2"


def test_an_estimator_is_not_measured_with_the_draws_of_its_reference(tmp_path):
    """They would have the same mean, and so no bias."""
    protocol = Protocol(100, 100, "reparam", 10, 100, 0, 0, 0.95, 3)
    known = find_truth(task(KINKED), 1, protocol, Store(tmp_path))
    figures = measure(task(KINKED), Case("reparam", 1, 0, 1, 1), protocol, known.truth).figures
    assert figures["phi"]["relative_bias"] > 1e-3


def test_a_reference_has_the_draws_of_its_own_number(tmp_path):
    """With a hundred times the draws, a tenth of the standard error."""
    protocol = Protocol(100, 100, "reparam", 10, 100, 0, 0, 0.95, 3)

    def error(draws):
        known = find_truth(task(KINKED), 1, protocol._replace(reference_draws=draws), Store(tmp_path))
        return float(known.truth.stderr["phi"]["mean"][0])

    assert error(10_000) == pytest.approx(error(100) / 10, rel=0.3)
