"""ULA and UHA on the linear-Gaussian VAE, whose log p(x) is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import linear_gaussian
from vae import annealed_bounds, estimators, models, objectives

MODEL, PARAMS, X = linear_gaussian.example()
LOG_MARGINAL = linear_gaussian.log_marginal(PARAMS, X)
OPTIONS = {"ula": {"step_size": 0.05}, "uha": {"step_size": 0.3}}
DRAWS = 20_000
SLOW = pytest.mark.slow


def _values(objective, draws=DRAWS, estimator="reparam"):
    """Independent values of the bound minus log p(x), `[draws, B]`."""
    one = estimators.make(estimator)
    value = lambda key: objective(MODEL.apply, PARAMS, X, estimators.bind(one, {}, {}, key)).value
    values = jax.jit(jax.vmap(value))(jax.random.split(jax.random.key(0), draws))
    return np.float64(values) - LOG_MARGINAL


def _z_score(excess):
    """The largest deviation of the mean of w = exp(bound) / p(x) from 1, in standard errors, and the largest error."""
    w = np.exp(excess)
    error = w.std(axis=0, ddof=1) / np.sqrt(len(w))
    return np.max(np.abs(w.mean(axis=0) - 1) / error), np.max(error)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_mean_of_the_exponential_is_p_of_x_and_more_steps_tighten_the_bound(name):
    many, few = (_values(objectives.make(name, steps=steps, **OPTIONS[name])) for steps in (8, 2))
    score, error = _z_score(many)
    assert error < 0.02
    assert score < 4.5
    gaps = [linear_gaussian.elbo(PARAMS, X) - LOG_MARGINAL, few.mean(0), many.mean(0), 0 * LOG_MARGINAL]
    error = np.hypot(many.std(0), few.std(0)) / np.sqrt(DRAWS)
    assert np.all(np.diff(gaps, axis=0) > 4.5 * error)


def test_the_first_momentum_of_uha_is_standard_normal():
    """So damping changes nothing in one step, and something in two."""
    values = lambda **options: _values(objectives.make("uha", **OPTIONS["uha"], **options), draws=10)
    np.testing.assert_allclose(values(steps=1, damping=0.9), values(steps=1, damping=0.0), atol=1e-4)
    assert np.abs(values(steps=2, damping=0.9) - values(steps=2, damping=0.0)).max() > 0.01


def _ula_with_half_the_variance_back(score, time, z, carried, eps):
    """A slip: the step back has the variance step_size, and not 2 step_size."""
    moved = z + 0.05 * score(time, z) + 0.1**0.5 * eps
    eps_back = (z - moved - 0.05 * score(time, moved)) / 0.05**0.5
    normalization = 0.5 * np.log(2) * z.shape[-1]
    return moved, carried, annealed_bounds._log_normal(eps_back) - normalization


def _uha_with_too_much_momentum(score, time, z, momentum, eps):
    """A slip: the noise of the momentum keeps its variance 1."""
    fresh = 0.5 * momentum + eps
    half = fresh + 0.15 * score(time, z)
    moved = z + 0.3 * half
    after = half + 0.15 * score(time, moved)
    log_normal = annealed_bounds._log_normal
    return moved, after, log_normal(after) - log_normal(fresh) + log_normal(eps)


@pytest.mark.parametrize(
    "slip", [_ula_with_half_the_variance_back, pytest.param(_uha_with_too_much_momentum, marks=SLOW)]
)
def test_control_slips_in_a_step_change_the_mean_of_the_exponential(slip):
    score, _ = _z_score(_values(annealed_bounds._annealed("slip", 8, slip)))
    assert score > 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "estimator"), [("uha", "stl"), ("ula", "leave_one_out")])
def test_other_estimators_have_the_gradient_of_the_path(name, estimator):
    """The gradient in all parameters, among them those of the decoder, along which the samples move."""
    objective = objectives.make(name, steps=2, **OPTIONS[name])

    def gradient(estimator, key):
        one = estimators.make(estimator, num_samples=2)
        value = lambda params: objective(MODEL.apply, params, X, estimators.bind(one, {}, {}, key)).value
        leaves = jax.tree.leaves(jax.grad(lambda params: jnp.sum(value(params)))(PARAMS))
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    difference = lambda key: gradient(estimator, key) - gradient("reparam", jax.random.fold_in(key, 1))
    draws = np.float64(jax.jit(jax.vmap(difference))(jax.random.split(jax.random.key(1), DRAWS)))
    error = draws.std(axis=0, ddof=1) / np.sqrt(DRAWS)
    assert np.max(np.abs(draws.mean(axis=0)) / error) < 4.5


@pytest.mark.parametrize(
    ("posterior", "dims", "choice"),
    [("bernoulli", 2, ","), ("gamma", 2, ","), ("planar", 2, ","), ("normal", (2, 1), " in one layer,")],
)
def test_latents_without_a_gradient_in_the_whole_space_are_refused(posterior, dims, choice):
    model = models.make_vae((2, 2, 1), latent_dim=dims, hidden=(3,), posterior=posterior)
    x = jnp.ones((1, 2, 2, 1))

    def value(key):
        expect = estimators.bind(estimators.make("reparam"), {}, {}, key)
        return annealed_bounds.ula()(model.apply, model.init(key, x, key), x, expect).value

    with pytest.raises(
        ValueError, match=f"ula moves z along the gradient .*; choose the posterior normal, .* or student_t{choice}"
    ):
        jax.eval_shape(value, jax.random.key(0))


def test_options_out_of_range_are_refused():
    for make, message in {
        lambda: annealed_bounds.ula(steps=0): "steps must be above 0",
        lambda: annealed_bounds.uha(step_size=0.0): "step_size must be above 0",
        lambda: annealed_bounds.uha(damping=1.0): "damping must be at least 0 and below 1",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
