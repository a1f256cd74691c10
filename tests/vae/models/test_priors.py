"""Mixtures and VampPriors as p(z): their densities, where they start, and their gradients against quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats as st
from scipy.special import logsumexp

from tests.helpers.random_models import float64, images, parameters
from vae import estimators, evaluate, models, objectives, train
from vae.estimators import bind

SHAPE = (2, 2, 1)
X = np.asarray(images(SHAPE, batch=3))
GRID = np.linspace(-12, 12, 801, dtype=np.float32)[:, None, None]  # z [K, B=1, D=1]


def small_vae(name, **options):
    prior = models.PRIORS.make(name, components=4)
    return models.make_vae(SHAPE, **{"latent_dim": 1, "hidden": (), "prior": prior} | options)


def init(model, x, seed=0):
    start = train.make_init(model, estimators.make("reparam"), optax.sgd(0.1), x)
    return jax.device_get(jax.jit(start)(jax.random.key(seed)).params["model"])


def exact_bound(model, params, x, detached=False):
    """The mean ELBO over x with one latent, by the trapezoidal rule. `detached` stops the gradient of p(z)."""
    q = model.apply(params, x, method="encode")
    z = jnp.broadcast_to(GRID, (len(GRID), len(x), 1))
    prior = model.apply(params, method="prior_distribution")
    log_prior = (jax.lax.stop_gradient(prior) if detached else prior).log_prob(z)
    log_q = q.log_prob(z)
    values = jnp.exp(log_q) * (model.apply(params, x, z, method="log_likelihood") + log_prior - log_q)
    return jnp.mean(jnp.sum(values, axis=0) * (GRID[1, 0, 0] - GRID[0, 0, 0]))


def test_a_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    model = small_vae("vamp", latent_dim=3)
    params = parameters(model, X)
    z = np.random.default_rng(1).normal(size=(5, 3, 3)).astype(np.float32)
    inputs = params["params"]["prior"]["pseudo_inputs"]
    assert inputs.shape == (4, *SHAPE)

    @jax.jit
    def program(params):
        each = [model.apply(params, inputs[k : k + 1], method="encode").log_prob(z) for k in range(4)]
        return each, model.apply(params, method="prior_distribution").log_prob(z)

    each, log_prior = program(params)
    np.testing.assert_allclose(log_prior, logsumexp(float64(each), axis=0) - np.log(4), rtol=1e-5)


def test_a_mixture_weighs_its_components_by_its_logits():
    model = small_vae("mixture")
    params = parameters(model, X)
    leaves = params["params"]["prior"]
    z = np.float32([[-1.0], [0.3], [2.0]])
    log_prior = jax.jit(lambda params: model.apply(params, method="prior_distribution").log_prob(z))(params)
    mean, log_var = float64(leaves["parameters"]).T
    log_weights = float64(leaves["logits"]) - logsumexp(float64(leaves["logits"]))
    expected = logsumexp(log_weights + st.norm(mean, np.exp(log_var / 2)).logpdf(float64(z)), axis=-1)
    assert np.ptp(log_weights) > 0.1
    np.testing.assert_allclose(log_prior, expected, rtol=1e-5)


def test_pseudo_inputs_start_at_the_images_that_init_is_given():
    start = lambda x: init(small_vae("vamp"), x)["params"]["prior"]["pseudo_inputs"]
    six = np.asarray(images(SHAPE, batch=6))
    noise = start(six) - six[:4]
    assert 0.003 < np.std(noise) < 0.03
    assert small_vae("vamp").prior.kind.images_at_start == 4
    again = start(six[:3])  # too few: the first image is taken twice, with other noise
    np.testing.assert_allclose(again[3], again[0], atol=0.1)
    assert np.any(again[3] != again[0])
    without_images = start(jax.ShapeDtypeStruct((3, *SHAPE), jnp.float32))
    assert np.abs(without_images).max() < 0.1


def test_a_mixture_starts_near_the_standard_prior_with_different_components():
    params = init(small_vae("mixture"), X)["params"]["prior"]
    np.testing.assert_array_equal(params["logits"], np.zeros(4))
    assert 0.2 < np.std(params["parameters"]) < 1
    assert np.ptp(params["parameters"], axis=0).min() > 0.1


@functools.cache
def _small_model(prior):
    """A model, its parameters, its bound and the gradient by quadrature, and the gradient if p(z) is constant."""
    model = small_vae(prior)
    params = parameters(model, X)

    @jax.jit
    def program(params):
        exact = jax.value_and_grad(lambda params: exact_bound(model, params, X))(params)
        return exact, jax.grad(lambda params: exact_bound(model, params, X, detached=True))(params)

    return model, params, *jax.device_get(program(params))


@pytest.mark.parametrize(
    ("prior", "estimator"), [("vamp", "reparam"), ("vamp", "stl"), ("vamp", "leave_one_out"), ("mixture", "reparam")]
)
def test_the_gradient_of_the_bound_reaches_the_encoder_on_both_ways(prior, estimator):
    """Through q(z|x), and through p(z), which the VampPrior makes of the encoder."""
    model, params, exact, detached = _small_model(prior)
    gradient_estimator = estimators.make(estimator, num_samples=200)

    def bound(params, key):
        expect = bind(gradient_estimator, {}, {}, key)
        return jnp.mean(objectives.elbo(model.apply, params, X, expect).value)

    draw = jax.jit(jax.vmap(jax.value_and_grad(bound), in_axes=(None, 0)))
    draws = jax.device_get(draw(params, jax.random.split(jax.random.key(1), 200)))
    worst = lambda truth, draws: max(jax.tree.leaves(jax.tree.map(_largest_z, truth, draws)))
    assert worst(exact, draws) < 4.5
    parts = ["encoder", "prior"] if prior == "vamp" else ["prior"]
    for part in parts:  # the control: p(z) held constant
        assert worst(detached["params"][part], draws[1]["params"][part]) > 10


def _largest_z(truth, draws):
    error = np.std(float64(draws), axis=0) / np.sqrt(len(draws)) + 1e-5
    return float(np.max(np.abs(np.mean(float64(draws), axis=0) - truth) / error))


def test_the_elbo_of_an_evaluation_is_that_of_quadrature():
    model = small_vae("vamp")
    params = parameters(model, X)

    @jax.jit
    def program(params):
        figures = evaluate.rate_distortion(model.apply, params, X, jax.random.key(0), num_samples=4000, chunk_size=1000)
        other = models.make_vae(SHAPE, latent_dim=1, hidden=())  # the same model with a standard prior
        return jnp.mean(figures["elbo"]), exact_bound(model, params, X), exact_bound(other, params, X)

    estimate, exact, of_standard = program(params)
    assert abs(estimate - exact) < 0.05
    assert abs(of_standard - exact) > 0.2  # the control


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
@pytest.mark.parametrize("options", [{}, {"free_bits": 0.1}], ids=str)
def test_the_analytic_bound_refuses_in_a_sentence(prior, options):
    model, reparam = small_vae(prior), estimators.make("reparam")
    bound = lambda params: objectives.elbo_analytic(**options)(
        model.apply, params, X, bind(reparam, {}, {}, jax.random.key(0))
    )
    with pytest.raises(
        NotImplementedError, match=r"KL\(Normal .. Mixture\) has no closed form here; choose objective=elbo"
    ):
        jax.eval_shape(bound, parameters(model, X))


def test_what_a_prior_cannot_do_is_refused():
    with pytest.raises(ValueError, match="prior=vamp needs one stochastic layer; give latent_dim one number"):
        small_vae("vamp", latent_dim=(2, 1))
    for name in ("mixture", "vamp"):
        with pytest.raises(ValueError, match=f"prior={name} needs at least one component, got 0"):
            models.PRIORS.make(name, components=0)


def test_a_flow_is_a_density_whose_parameters_all_have_a_gradient():
    model = models.make_vae(SHAPE, latent_dim=2, hidden=(), prior=models.PRIORS.make("flow", layers=2, hidden=5))
    params = parameters(model, X)
    axis = np.linspace(-12, 12, 241, dtype=np.float32)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)  # [241^2, D]

    @jax.jit
    def program(params):
        prior = model.apply(params, method="prior_distribution")
        return prior, jnp.exp(prior.log_prob(plane)), prior.sample(jax.random.key(0), 20_000)

    prior, *results = program(params)
    density, z = map(float64, results)
    assert (len(prior.transform.layers), prior.context.shape) == (2, (5,))  # the options `layers` and `hidden`
    cell = float(axis[1] - axis[0]) ** 2
    assert abs(density.sum() * cell - 1) < 2e-3
    centred = float64(plane) - density @ float64(plane) * cell
    spread = np.sqrt(density @ centred**2 * cell)
    assert np.all(np.abs(z.mean(axis=0) - density @ float64(plane) * cell) < 4.5 * spread / np.sqrt(len(z)))
    assert np.abs(spread - 1).max() > 0.05  # the control: the prior is not the standard normal any more

    expect = bind(estimators.make("reparam"), {}, {}, jax.random.key(0))
    bound = lambda params: jnp.mean(objectives.elbo(model.apply, params, X, expect).value)
    gradients = jax.device_get(jax.jit(jax.grad(bound))(params)["params"]["prior"])
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    models.make_vae(SHAPE, posterior="laplace", prior="flow")
    with pytest.raises(ValueError, match="prior=flow is over all real numbers, and posterior=gamma is not"):
        models.make_vae(SHAPE, posterior="gamma", prior="flow")
    with pytest.raises(ValueError, match="posterior=power_spherical is not; choose prior=standard or mixture, or"):
        models.make_vae(SHAPE, posterior="power_spherical", prior="flow")
