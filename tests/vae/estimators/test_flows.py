"""Estimators with a flow as q, against quadrature in two dimensions, and the mistakes that quadrature finds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from scipy import stats

from tests.helpers.flows import INVERTIBLE, make_flow
from tests.helpers.oracle import REDUCE, assert_unbiased, measure, problem
from vae import estimators
from vae.estimators import BY_NAME
from vae.estimators.dreg import path_weight
from vae.estimators.tools import integrand, scale_cotangent, stateless
from vae.testing import problems


@functools.cache
def flow_problem(name):
    """The problem of the contract tests, whose posterior is a flow; phi is the flow itself, with its weights."""
    return problem("Normal")._replace(phi=make_flow(name, hidden=3, scale=0.3))


@functools.cache
def exact(name, bound):
    """Value and gradients for K = 2 in float64, by the trapezoidal rule over the noise.

    The rule converges fast where T is smooth, and slowly for splines.
    """
    normal = np.linspace(-5.5, 5.5, {"mean": 121 if name == "spline_coupling" else 28, "log_mean_exp": 18}[bound])
    weight = stats.norm.pdf(normal) * (normal[1] - normal[0])
    eps = np.stack(np.meshgrid(normal, normal), axis=-1).reshape(-1, 1, 2)
    weight = np.multiply.outer(weight, weight).reshape(-1, 1)

    def expectation(q, f):
        z, log_q = q.from_noise_and_log_prob(jnp.asarray(eps))
        values = f(z) - log_q
        if bound == "mean":
            return jnp.sum(weight * values, axis=0)
        pairs = jnp.stack(jnp.broadcast_arrays(values[:, None], values[None]))
        return jnp.sum(weight[:, None] * weight[None] * REDUCE[bound](pairs), axis=(0, 1))

    with jax.enable_x64(True):
        toy = flow_problem(name).astype(jnp.float64)
        objective = functools.partial(problems.objective, toy, expectation)
        (_, value), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(toy.phi, toy.theta)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return {"value": flat(value), "phi": flat(grads[0]), "theta": flat(grads[1])}


@pytest.mark.parametrize(
    ("name", "flow", "bound"),
    [
        ("reparam", "coupling", "mean"),
        ("reparam", "planar", "log_mean_exp"),
        ("reparam_antithetic", "planar", "mean"),
        pytest.param("reparam_rqmc", "iaf", "mean", marks=pytest.mark.slow),
        ("stl", "coupling", "mean"),
        ("stl", "planar", "mean"),
        pytest.param("stl", "iaf", "mean", marks=pytest.mark.slow),
        pytest.param("stl", "spline_coupling", "mean", marks=pytest.mark.slow),
        pytest.param("dreg", "coupling", "log_mean_exp", marks=pytest.mark.slow),
        pytest.param("dreg", "planar", "log_mean_exp", marks=pytest.mark.slow),
        pytest.param("dreg", "iaf", "log_mean_exp", marks=pytest.mark.slow),
        ("leave_one_out", "coupling", "mean"),
    ],
)
def test_an_estimator_is_unbiased_for_a_flow(name, flow, bound):
    estimator = BY_NAME[name].make(num_samples=2)
    assert_unbiased(estimator, flow_problem(flow), REDUCE[bound], exact(flow, bound), chunk=2**13)


def _dreg(density):
    """DReG, whose log q(z) in the last line is `density(q)`."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, 2)
        values = stop_gradient(integrand(f, q, log_q_weight)(z))
        z = scale_cotangent(z, path_weight(reduce, values, log_q_weight))
        return reduce(integrand(f, density(q), log_q_weight)(z))

    return stateless(estimate)


class _Outputs:
    """The mistake of holding log q(z), the output of the flow, in place of its weights."""

    def __init__(self, q):
        self.q, self.batch_shape = q, q.batch_shape

    def sample(self, key, num_samples):
        return self.q.sample(key, num_samples)

    def log_prob(self, z):
        return stop_gradient(self.q.log_prob(z))


HELD = {
    "everything": stop_gradient,
    "all but the weights": lambda q: dataclasses.replace(stop_gradient(q), weights=q.weights),
    "the outputs": _Outputs,
}


@pytest.mark.parametrize("held", HELD)
def test_dreg_is_unbiased_only_if_all_of_a_flow_is_held(held):
    report = measure(
        _dreg(HELD[held]),
        flow_problem("coupling"),
        REDUCE["log_mean_exp"],
        exact("coupling", "log_mean_exp"),
        chunk=2**13,
        max_chunks=4,
    )
    assert ("phi" in report.biased()) == (held != "everything"), report
    assert "theta" not in report.biased()


# Splines compile for long.
FLOWS = [pytest.param(name, marks=[pytest.mark.slow] if name == "spline_coupling" else []) for name in INVERTIBLE]


@pytest.mark.parametrize("flow", FLOWS)
def test_the_path_gradient_without_an_inverse_is_that_with_the_inverse(flow):
    """The gradient of each draw in all arrays of q, in float64."""

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(estimator, q):
        f = lambda z: jnp.sum(jnp.sin(z), axis=-1)
        value = lambda q: estimator.estimate({}, {}, jax.random.key(0), q, f, REDUCE["log_mean_exp"], 1.0).value
        return jax.grad(lambda q: jnp.sum(value(q)))(q)

    with jax.enable_x64(True):
        q = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), make_flow(flow, dim=3, layers=2))
        ours, inverse = gradient(estimators.dreg(num_samples=2), q), gradient(_dreg(stop_gradient), q)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), ours, inverse)


@pytest.mark.parametrize("flow", FLOWS)
def test_sticking_the_landing_has_no_noise_where_the_flow_is_the_posterior(flow):
    """The gradient of each draw is 0, which that of `reparam` is not."""
    q = make_flow(flow)
    target = jax.tree.map(jnp.asarray, q)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(name, q):
        value = lambda q: jnp.sum(
            estimators.make(name).estimate({}, {}, jax.random.key(0), q, target.log_prob, log_q_weight=1.0).value
        )
        return jax.grad(value)(q)

    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient("stl", q))) < 1e-4
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient("reparam", q))) > 0.1


def test_a_score_function_refuses_planar_flows_in_a_sentence():
    toy = flow_problem("planar")
    estimator = estimators.make("reinforce")
    value = lambda: estimator.estimate({}, {}, jax.random.key(0), toy.phi, toy.integrand(toy.theta)).value
    with pytest.raises(
        ValueError,
        match=r"reinforce needs log q\(z\) of a given z.*; these estimators can: reparam, reparam_antithetic, ",
    ):
        jax.eval_shape(value)
