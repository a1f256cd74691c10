"""The implicit gradient of a mixture, and the stratified bounds, against quadrature in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from jax.lax import stop_gradient

import vae
from tests.helpers.families import float64
from vae import distributions as dist
from vae import estimators, objectives
from vae.testing.problems import problem

Q = problem("MixtureOfNormals").phi  # two components in two dimensions, for two data
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
GRID = np.stack(np.meshgrid(POINTS, POINTS), axis=-1).reshape(-1, 1, 1, 2)
GRID_WEIGHTS = np.multiply.outer(WEIGHTS, WEIGHTS).reshape(-1, 1, 1) / np.sum(WEIGHTS) ** 2


def test_the_density_is_the_weighted_sum_of_scipys():
    z = np.random.default_rng(0).normal(size=(7, 2, 2)).astype(np.float32)
    weights = np.exp(float64(Q.logits)) / np.exp(float64(Q.logits)).sum(-1, keepdims=True)
    normal = st.norm(float64(Q.means), np.exp(float64(Q.log_vars) / 2))
    truth = np.log(np.sum(weights * np.exp(normal.logpdf(float64(z)[:, :, None]).sum(-1)), axis=-1))
    np.testing.assert_allclose(jax.jit(Q.log_prob)(z), truth, rtol=1e-5)


# --- The implicit gradient


def _integrand(z):
    return jnp.sin(1.3 * z[..., 0] + 0.4 * z[..., 1]) + z[..., 0] * z[..., 1] ** 2


def _expectation(q, path=lambda q, z: z):
    """E[f(z)] by the nodes of each component, `[N, B, C, D]`; with a path, only the path has a derivative."""
    held = q if path is None else stop_gradient(q)
    z = held.means + jnp.exp(0.5 * held.log_vars) * GRID
    if path is not None:
        samples = jnp.moveaxis(z, 2, 0)  # [C, N, B, D]
        z = jnp.moveaxis(path(q, samples.reshape(-1, 2, 2)).reshape(samples.shape), 0, 2)
    return jnp.sum(GRID_WEIGHTS * jax.nn.softmax(held.logits) * _integrand(z))


def _by_marginals(q, z):
    """The mistake of taking the distribution function of each coordinate, and not the one given those before."""
    columns = lambda d: (q.means[..., d : d + 1], q.log_vars[..., d : d + 1], q.logits)
    return jnp.concatenate([dist.MixtureOfNormals(*columns(d)).implicit(z[..., d : d + 1]) for d in (0, 1)], axis=-1)


def _without_weights(q, z):
    """The mistake of a gradient that leaves the weights out."""
    return dist.MixtureOfNormals(q.means, q.log_vars, stop_gradient(q.logits)).implicit(z)


PATHS = {"implicit": dist.MixtureOfNormals.implicit, "marginals": _by_marginals, "no weights": _without_weights}


def test_the_implicit_gradient_is_that_of_the_expectation():
    """At the nodes of a quadrature in place of draws, in all parameters at once."""
    with jax.enable_x64(True):
        q = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), Q)
        gradients = {
            name: jax.jit(jax.grad(functools.partial(_expectation, path=path)))(q)
            for name, path in {"truth": None, **PATHS}.items()
        }
    error = lambda name: max(
        np.abs(ours - truth).max()
        for ours, truth in zip(*map(jax.tree.leaves, (gradients[name], gradients["truth"])), strict=True)
    )
    assert error("implicit") < 1e-4
    assert min(error("marginals"), error("no weights")) > 0.02


def test_far_components_have_finite_gradients():
    q = dist.MixtureOfNormals(np.float32([[-1e3], [1e3]]), np.float32([[-30.0], [3.0]]), np.float32([20.0, -20.0]))
    gradient = jax.jit(jax.grad(lambda q: jnp.sum(jnp.sin(q.rsample(jax.random.key(0), 9)))))(q)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


# --- Stratified bounds, in one dimension: log p(x, z) = log N(z; 0, 1) + log N(x; sin(2 z), 1/2)

PARAMS = {"means": [0.9, -0.6], "log_vars": [-0.5, -1.2], "logits": [0.3, -0.4]}
X = np.float32([0.7])


def _apply(params, x=None, z=None, method=None):
    if method == "encode":
        return dist.MixtureOfNormals(
            params["means"][None, :, None], params["log_vars"][None, :, None], params["logits"][None]
        )
    if method == "prior_distribution":
        return dist.Normal(jnp.zeros(1), jnp.zeros(1))
    return -jnp.square(x - jnp.sin(2 * z[..., 0])) - 0.5 * np.log(np.pi)  # log_likelihood


def _apply_to_normal(params, x=None, z=None, method=None):
    """The same model with a Normal posterior."""
    if method == "encode":
        return dist.Normal(params["means"][None], params["log_vars"][None])
    return _apply(params, x, z, method)


def _bound(combine, density="mixture", weights="mixture"):
    """A function of (means, log_vars, logits): a bound with one sample of each component, by the trapezoidal rule over
    the plane in NumPy. The density under p(x, z) and the weights may be mistaken."""

    def bound(means, log_vars, logits):
        noise = np.linspace(-7, 7, 161)
        z = means[:, None] + np.exp(log_vars / 2)[:, None] * noise  # [C, N]
        weight = np.exp(logits) / np.exp(logits).sum()
        log_component = st.norm.logpdf(z, means[:, None], np.exp(log_vars / 2)[:, None])
        components = st.norm.pdf(z[..., None], means, np.exp(log_vars / 2))
        log_q = {"mixture": np.log(components @ weight), "component": log_component}[density]
        log_weights = st.norm.logpdf(z) + st.norm.logpdf(X, np.sin(2 * z), np.sqrt(0.5)) - log_q
        pi = {"mixture": weight, "equal": np.full(2, 0.5)}[weights]
        mass = st.norm.pdf(noise) * (noise[1] - noise[0])
        return mass @ combine(pi, log_weights[0][:, None], log_weights[1]) @ mass

    return bound


def _log_sum(pi, first, second):
    return np.logaddexp(np.log(pi[0]) + first, np.log(pi[1]) + second)


def _sum(pi, first, second):
    return pi[0] * first + pi[1] * second


def _value_and_gradient(bound, h=1e-5):
    """The value and the central differences of the bound in its six parameters."""
    point = np.concatenate([PARAMS["means"], PARAMS["log_vars"], PARAMS["logits"]])
    at = lambda point: bound(*np.split(point, 3))
    return np.array([at(point), *((at(point + e) - at(point - e)) / (2 * h) for e in h * np.eye(6))])


BOUNDS = {"siwae": (vae.siwae, _log_sum), "selbo": (vae.selbo, _sum)}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_stratified_bound_and_its_gradient_are_those_of_quadrature(name):
    objective, combine = BOUNDS[name]
    with jax.enable_x64(True):
        params = {key: jnp.asarray(value, jnp.float64) for key, value in PARAMS.items()}
        expect = estimators.bind(estimators.make("exact", order=96), {}, {}, None)
        bound = lambda params: objective(_apply, params, X, expect).value[0]
        value, gradient = jax.jit(jax.value_and_grad(bound))(params)
    ours = np.concatenate([[value], gradient["means"], gradient["log_vars"], gradient["logits"]])
    np.testing.assert_allclose(ours, _value_and_gradient(_bound(combine)), atol=2e-5)
    for mistake in ({"density": "component"}, {"weights": "equal"}):
        assert np.abs(ours - _value_and_gradient(_bound(combine, **mistake))).max() > 0.02, mistake


def test_several_samples_of_each_component_are_averaged_inside_the_logarithm():
    """Against the formula at the same samples. For a posterior that is no mixture, the bound is iwae."""
    params = {key: np.float32(value) for key, value in PARAMS.items()}
    key = jax.random.key(0)
    expect = estimators.bind(estimators.make("reparam", num_samples=3), {}, {}, key)
    log_joint = objectives.log_joint(_apply, params, X)

    @jax.jit
    def program(params):
        q = _apply(params, X, method="encode")
        parts = jnp.moveaxis(q.strata.rsample(key, 3), -1, 0)[..., None]  # [C, K, B, D]
        log_weights = jnp.stack([log_joint(z) - q.log_prob(z) for z in parts])[..., 0]
        bounds = [
            bound(apply, params, X, expect).value
            for bound, apply in (
                (vae.siwae, _apply),
                (vae.siwae, _apply_to_normal),
                (vae.iwae, _apply_to_normal),
            )
        ]
        return log_weights, *bounds

    log_weights, siwae, of_normal, iwae = program(params)
    weight = np.exp(PARAMS["logits"]) / np.exp(PARAMS["logits"]).sum()
    np.testing.assert_allclose(siwae, [np.log(np.sum(weight * np.exp(log_weights).mean(axis=1)))], rtol=1e-5)
    np.testing.assert_array_equal(of_normal, iwae)
