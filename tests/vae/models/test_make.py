"""`make_vae`: names, options, and what it refuses."""

import pytest

from vae import models

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
    with pytest.raises(ValueError, match=f"{argument}=resnet is unknown; choose one of {known}$"):
        models.make_vae((4, 4, 1), **{argument: "resnet"})


@pytest.mark.parametrize(("argument", "name"), [(each, name) for each in CHOICES for name in CHOICES[each]])
def test_a_name_is_what_its_factory_returns_for_the_default_options(argument, name):
    """Equal options give equal models with equal hashes, which are compiled once."""
    by_name = models.make_vae((4, 4, 1), latent_dim=(3, 2), **{argument: name})
    by_factory = models.make_vae((4, 4, 1), latent_dim=(3, 2), **{argument: CHOICES[argument][name]()})
    assert by_name == by_factory
    assert hash(by_name) == hash(by_factory)


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
    ],
)
def test_an_option_out_of_its_range_is_refused(argument, name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CHOICES[argument][name](**options)


@pytest.mark.parametrize("posterior", ["full_covariance", "student_t"])
def test_a_learned_prior_needs_a_posterior_that_has_a_prior_of_its_family(posterior):
    with pytest.raises(ValueError, match=f"prior=learned .* posterior={posterior}.*choose prior=standard.* normal, "):
        models.make_vae((4, 4, 1), posterior=posterior, prior="learned")


def test_convolutions_need_a_layer():
    with pytest.raises(ValueError, match="architecture=conv needs at least one layer"):
        models.make_vae((4, 4, 1), architecture="conv", hidden=())
