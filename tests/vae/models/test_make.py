"""`make_vae`: names, options, and what it refuses."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.pairs import estimator_for
from vae import data, estimators, models, objectives, train
from vae.distributions import Normal

K, B, D = 3, 2, 4


CHOICES = {
    "architecture": models.ARCHITECTURES,
    "activation": models.ACTIVATIONS,
    "likelihood": models.LIKELIHOODS,
    "posterior": models.POSTERIORS,
    "prior": models.PRIORS,
}


@pytest.mark.parametrize("argument", CHOICES)
def test_an_unknown_name_is_refused_with_the_known_names(argument):
    known = ", ".join(CHOICES[argument])
    with pytest.raises(ValueError, match=f"there is no {argument} 'transformer'; choose one of {known}, or import the"):
        models.make_vae((4, 4, 1), **{argument: "transformer"})


@pytest.mark.parametrize(("argument", "name"), [(each, name) for each in CHOICES for name in CHOICES[each]])
def test_a_name_is_what_its_factory_returns_for_the_default_options(argument, name):
    """Equal options give equal models with equal hashes, which are compiled once."""
    dims = 3 if name in ("vamp", "vq", "fsq", "stochastic_vq") else (3, 2)
    by_name = models.make_vae((4, 4, 1), latent_dim=dims, **{argument: name})
    by_factory = models.make_vae((4, 4, 1), latent_dim=dims, **{argument: CHOICES[argument][name]()})
    assert by_name == by_factory
    assert hash(by_name) == hash(by_factory)


@pytest.mark.usefixtures("restored_tables")
@pytest.mark.parametrize("argument", CHOICES)
def test_an_addition_is_known_by_its_name_and_replaces_nothing(argument):
    add, table = getattr(models, f"add_{argument}"), CHOICES[argument]
    first = next(iter(table))
    add("mine", table[first])
    assert models.make_vae((4, 4, 1), **{argument: "mine"}) == models.make_vae((4, 4, 1), **{argument: first})
    with pytest.raises(ValueError, match=f"the {argument} {first} exists already"):
        add(first, table[first])


@dataclass(frozen=True)
class Bent(models.Posterior):
    """A Normal whose means pass through layers that all data share: learned parameters of its own, as a flow has."""

    layers: int = 1
    name: ClassVar[str] = "bent"
    has_own_prior: ClassVar[bool] = False

    def num_parameters(self, latent_dim):
        return 2 * latent_dim

    def distribution(self, parameters, latent_dim):
        mean, log_var = jnp.split(parameters, 2, axis=-1)
        for layer in range(self.layers):
            mean = nn.Dense(latent_dim, name=f"bend_{layer}")(mean)
        return Normal(mean, log_var)

    def standard_prior(self, latent_dim):
        return Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))


@pytest.mark.usefixtures("restored_tables")
@pytest.mark.parametrize("latent_dim", [3, (3, 2)], ids=["one layer", "two layers"])
def test_a_posterior_of_ones_own_has_options_and_learned_parameters(latent_dim):
    models.add_posterior("bent", Bent)
    assert models.POSTERIORS.options("bent") == {"layers": 1}
    model = models.make_vae((4, 4, 1), latent_dim, hidden=5, posterior=models.POSTERIORS.make("bent", layers=2))
    gradient, x = estimators.make("reparam"), np.zeros((B, 4, 4, 1), np.float32)
    state = jax.eval_shape(train.make_init(model, gradient, optax.sgd(0.1), x), jax.random.key(0))
    encoder = state.params["model"]["params"]["encoder"]
    first = encoder["first"] if isinstance(latent_dim, tuple) else encoder
    assert first["bend_1"]["kernel"].shape == (3, 3)
    step = train.make_step(model.apply, objectives.elbo, gradient, optax.sgd(0.1))
    assert jax.eval_shape(step, state, jax.random.key(1), x)[1]["bound"].shape == ()
    with pytest.raises(ValueError, match="prior=learned does not go with posterior=bent"):
        models.make_vae((4, 4, 1), latent_dim, posterior="bent", prior="learned")


@pytest.mark.parametrize(
    ("argument", "name", "options"),
    [
        ("activation", "leaky_relu", {"negative_slope": 0.3}),
        ("posterior", "bernoulli", {"signed": True}),
        ("posterior", "binary_concrete", {"signed": True}),
        ("posterior", "binary_concrete", {"temperature": 0.4}),
        ("posterior", "categorical", {"categories": 8}),
        ("posterior", "concrete", {"categories": 8}),
        ("posterior", "concrete", {"temperature": 0.4}),
        ("prior", "mixture", {"components": 3}),
        ("prior", "vamp", {"components": 3}),
        ("prior", "flow", {"layers": 2}),
        ("prior", "flow", {"hidden": 8}),
        ("likelihood", "gaussian", {"scale": "decoder"}),
        ("likelihood", "gaussian", {"log_scale": -2.0}),
        ("likelihood", "discretized_logistic_mixture", {"components": 3}),
        ("posterior", "coupling", {"layers": 2}),
        ("posterior", "iaf", {"hidden": 8}),
        ("posterior", "spline_coupling", {"bins": 4}),
        ("posterior", "planar", {"layers": 2}),
    ],
)
def test_every_option_changes_the_model(argument, name, options):
    make = CHOICES[argument][name]
    changed = models.make_vae((4, 4, 1), **{argument: make(**options)})
    assert changed == models.make_vae((4, 4, 1), **{argument: make(**options)})
    assert changed != models.make_vae((4, 4, 1), **{argument: name})


@pytest.mark.parametrize("name", models.POSTERIORS)
def test_a_relaxation_keeps_its_options_in_what_it_stands_for(name):
    hard = {
        "binary_concrete": models.POSTERIORS["bernoulli"](signed=True),
        "concrete": models.POSTERIORS["categorical"](categories=8),
    }
    options = {"binary_concrete": {"signed": True}, "concrete": {"categories": 8}}
    assert models.POSTERIORS[name](**options.get(name, {})).hard == hard.get(name)


@pytest.mark.parametrize(
    ("argument", "name", "options", "sentence"),
    [
        ("activation", "leaky_relu", {"negative_slope": -1.0}, "negative_slope of at least 0, got -1.0"),
        ("posterior", "categorical", {"categories": 1}, "posterior=categorical needs at least two categories, got 1"),
        ("posterior", "concrete", {"categories": 1}, "posterior=concrete needs at least two categories, got 1"),
        ("posterior", "concrete", {"temperature": 0.0}, "posterior=concrete needs a temperature above 0, got 0.0"),
        ("posterior", "binary_concrete", {"temperature": -1.0}, "needs a temperature above 0, got -1.0"),
        ("posterior", "coupling", {"hidden": 0}, "posterior=coupling needs a positive number of hidden, got 0"),
        ("posterior", "low_rank", {"rank": 0}, "posterior=low_rank needs a positive rank, got 0"),
        ("posterior", "mixture_of_normals", {"components": 0}, "needs at least one component, got 0"),
        ("posterior", "planar", {"layers": -1}, "posterior=planar needs a positive number of layers, got -1"),
        ("prior", "flow", {"hidden": 0}, "prior=flow needs a positive number of hidden, got 0"),
    ],
)
def test_an_option_out_of_its_range_is_refused(argument, name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CHOICES[argument][name](**options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("power_spherical", {}, "posterior=power_spherical needs a latent_dim of at least 2, got 1"),
        ("von_mises_fisher", {}, "posterior=von_mises_fisher needs a latent_dim of at least 2, got 1"),
        ("low_rank", {"rank": 2}, "posterior=low_rank needs a rank of at most latent_dim=1, got 2"),
    ],
)
def test_a_family_that_does_not_fit_the_number_of_dimensions_is_refused(name, options, sentence):
    model = models.make_vae((4, 4, 1), latent_dim=1, posterior=models.POSTERIORS.make(name, **options))
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32), jax.random.key(0))


@pytest.mark.parametrize("posterior", ["full_covariance", "student_t"])
def test_a_learned_prior_needs_a_posterior_that_has_a_prior_of_its_family(posterior):
    with pytest.raises(ValueError, match=f"prior=learned .* posterior={posterior}.*choose prior=standard.* normal, "):
        models.make_vae((4, 4, 1), posterior=posterior, prior="learned")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"image_shape": (4, 0, 1)}, r"image_shape must be positive integers, got \(4, 0, 1\)"),
        ({"latent_dim": 0}, "latent_dim must be positive integers, got 0"),
        ({"latent_dim": (3, -1)}, "latent_dim must be positive integers"),
        ({"latent_dim": ()}, "latent_dim needs at least one number"),
        ({"hidden": (8, 0)}, "hidden must be positive integers"),
        ({"latent_dim": (3, 2), "layer_hidden": (-8,)}, "layer_hidden must be positive integers"),
    ],
)
def test_a_size_that_is_no_positive_integer_is_refused(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.make_vae(**{"image_shape": (4, 4, 1)} | sizes)


def test_one_width_is_one_layer():
    assert models.make_vae((4, 4, 1), hidden=8) == models.make_vae((4, 4, 1), hidden=(8,))


def test_convolutions_need_a_layer():
    with pytest.raises(ValueError, match="architecture=conv needs 1 or more layers in hidden, got 0"):
        models.make_vae((4, 4, 1), architecture="conv", hidden=())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, make in models.POSTERIORS.items() if not make().codes])
@pytest.mark.parametrize("latent_dim", [(8,), (8, 4), (8, 4, 2)], ids=len)
def test_every_posterior_trains_for_twenty_epochs_at_the_defaults(name, latent_dim):
    """Four seeds, with the sizes, the rate and the batches of experiments.train. No layer explodes."""
    digits = data.fix_binarization(data.load("digits"), "static")
    x = data.pixels(digits.train, digits.levels)
    model = models.make_vae(x.shape[1:], latent_dim, hidden=(128, 64), layer_hidden=(64,), posterior=name)
    estimator = estimators.make(estimator_for(name), num_samples=2 if estimator_for(name) == "leave_one_out" else 1)
    optimizer = optax.adam(1e-3)
    step = train.make_step(model.apply, objectives.elbo, estimator, optimizer)
    epoch = jax.jit(jax.vmap(train.make_epoch(step, batch_size=64), in_axes=(0, 0, None)))
    keys = jax.random.split(jax.random.key(0), 4)
    state = jax.vmap(train.make_init(model, estimator, optimizer, x[:1]))(keys)
    bounds = []
    for _ in range(20):
        state, metrics = epoch(state, keys, x)
        bounds.append(metrics["bound"])
    assert np.all(np.isfinite(bounds))
    assert np.all(bounds[-1] > -36)  # of -44 without training
