"""Models whose posterior is a flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.random_models import images, parameters
from vae import distributions as dist
from vae import estimators, evaluate, models, objectives, train

X = images((4, 4, 1), batch=3)
KEY = jax.random.key(2)


def make_model(name, latent_dim=3, **options):
    posterior = models.POSTERIORS.make(name, **{"layers": 2} | options)
    return models.make_vae((4, 4, 1), latent_dim, hidden=(5,), layer_hidden=(4,), posterior=posterior)


def test_the_weights_of_a_flow_are_parameters_of_the_encoder_and_have_no_batch():
    model = make_model("coupling", hidden=4)
    params = parameters(model, X)
    q = jax.jit(lambda params: model.apply(params, X, method="encode"))(params)
    jax.tree.map(np.testing.assert_array_equal, q.weights["params"], params["params"]["encoder"]["flow"])
    assert (q.batch_shape, q.context.shape) == ((3,), (3, 4))


@pytest.mark.parametrize(
    ("name", "options", "first", "last"),
    [
        ("coupling", {}, (1 + 5, 5), (5, 2, 2)),  # one coordinate stays, and the context has 5 numbers
        ("spline_coupling", {"bins": 6}, (1 + 5, 5), (5, 2, 3 * 6 - 1)),
        ("iaf", {}, (3 + 5, 5), (5, 3, 2)),
    ],
)
def test_the_options_of_a_flow_are_the_sizes_of_its_networks(name, options, first, last):
    model = make_model(name, layers=3, hidden=5, **options)
    flow = jax.eval_shape(model.init, KEY, X, KEY)["params"]["encoder"]["flow"]
    shapes = [(layer["conditioner"]["first"].shape, layer["conditioner"]["last"].shape) for layer in flow.values()]
    assert shapes == [(first, last)] * 3


def test_the_bound_of_many_samples_is_that_of_weights_by_the_inverse():
    """The evaluation maps over data and over samples, and takes log q(z) from the draw."""
    model = make_model("iaf", hidden=4)
    params = parameters(model, X)

    @jax.jit
    def program(params):
        bound = evaluate.log_likelihood(model.apply, params, X, KEY, num_samples=6, batch_size=2, chunk_size=4)
        q = model.apply(params, X, method="encode")
        keys = jax.vmap(lambda n: jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(KEY, n), k))(jnp.arange(6)))
        noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (3,))))(keys(jnp.arange(len(X))))
        z = q.from_noise(jnp.swapaxes(noise, 0, 1))  # [K, B, D]
        weights = objectives.log_joint(model.apply, params, X)(z) - q.log_prob(z)
        return bound, jax.nn.logsumexp(weights, axis=0) - jnp.log(6)

    np.testing.assert_allclose(*program(params), rtol=1e-4)


@pytest.mark.parametrize(("name", "estimator"), [("planar", "reparam"), ("coupling", "leave_one_out:by_layer")])
def test_a_flow_may_be_the_posterior_of_several_layers(name, estimator):
    """The conditionals of the prior are normal, and the gradient reaches every parameter of the encoder."""
    model = make_model(name, (3, 2), **{} if name == "planar" else {"hidden": 4})
    params = parameters(model, X)
    estimator = estimators.make(estimator.split(":")[0], num_samples=2, by_layer="by_layer" in estimator)

    @jax.jit
    @jax.grad
    def gradient(params):
        expect = estimators.bind(estimator, ((), ()), ((), ()), KEY)
        return jnp.mean(objectives.elbo(model.apply, params, X, expect).value)

    of_encoder = jax.device_get(gradient(params)["params"]["encoder"])
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(of_encoder))
    prior = jax.eval_shape(lambda: model.apply(params, method="prior_distribution").layer(1, jnp.zeros((1, 3, 2))))
    assert isinstance(prior, dist.Normal)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_mixture_of_flows_is_a_prior_and_of_planar_flows_is_refused(prior):
    """With one component, the density of the prior is that of the flow itself."""
    kind = models.PRIORS.make(prior, components=1)
    posterior = models.POSTERIORS.make("coupling", layers=2, hidden=4)
    model = models.make_vae((4, 4, 1), 3, hidden=(5,), posterior=posterior, prior=kind)
    params = parameters(model, X)
    z = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)

    @jax.jit
    def densities(params):
        p = model.apply(params, method="prior_distribution")
        return p.log_prob(z), p.components.log_prob(z[:, :, None])[..., 0]

    np.testing.assert_allclose(*densities(params), rtol=1e-5)
    with pytest.raises(ValueError, match=f"prior={prior} needs the density .* posterior=planar does not have"):
        models.make_vae((4, 4, 1), 3, posterior="planar", prior=kind)


def test_an_evaluation_of_a_sweep_with_a_flow_lowers_for_accelerators():
    model = make_model("iaf", hidden=4)
    keys = jax.eval_shape(lambda: jax.random.split(KEY, 2))
    params = jax.eval_shape(jax.vmap(model.init, in_axes=(0, None, 0)), keys, X, keys)
    bound = train.over_runs(lambda params, x, key: evaluate.log_likelihood(model.apply, params, x, key, 8), "vmap", 2)
    exported = jax.export.export(jax.jit(bound), platforms=["cuda", "tpu"])(params, X, jax.eval_shape(lambda: KEY))
    assert exported.out_avals[0].shape == (2, 3)
