"""Estimators as the command line spells them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build, options
from vae import distributions, estimators
from vae.estimators import BY_NAME


def _gradient(estimator, q):
    f = lambda z, q: jnp.sum(z * jnp.arange(z.shape[-1]), axis=(-2, -1)) ** 2

    def value(logits):
        params, state = estimator.init(jax.random.key(0), q)
        return estimator.estimate(params, state, jax.random.key(1), distributions.Categorical(logits), f).value

    return jax.grad(value)(q.logits)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("gumbel_rao", "gumbel_rao", {}),
        ("gumbel_rao:inner_samples=3", "gumbel_rao", {"inner_samples": 3}),
        ("gumbel_rao:temperature=2:inner_samples=3", "gumbel_rao", {"inner_samples": 3, "temperature": 2.0}),
        ("unordered_set:k=4", "unordered_set", {"k": 4}),
    ],
)
def test_options_stand_behind_the_name(text, name, options):
    q = distributions.Categorical(jax.random.normal(jax.random.key(2), (2, 5)))
    chosen, plain = BY_NAME[name].make(num_samples=2, **options), BY_NAME[name].make(num_samples=2)
    ours = _gradient(build.estimator(text, 2), q)
    np.testing.assert_array_equal(ours, _gradient(chosen, q))
    assert np.array_equal(ours, _gradient(plain, q)) == (not options)


def test_a_temperature_behind_the_name_goes_before_the_commands():
    q = distributions.Categorical(jax.random.normal(jax.random.key(2), (2, 5)))
    of = lambda text, temperature: _gradient(build.estimator(text, 1, temperature), q)
    np.testing.assert_array_equal(of("gumbel_softmax:temperature=2", 0.3), of("gumbel_softmax", 2.0))
    assert not options.has_temperature("gumbel_softmax:temperature=2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gumbel", "'gumbel' is not one of reparam, .*exact"),
        ("gumbel_rao:k=3", "gumbel_rao has no option 'k'; its options are temperature=0.5, inner_samples=10"),
        ("gumbel_rao:num_samples=3", "gumbel_rao has no option 'num_samples'"),
        ("arm:by_layer=true", "arm has no option 'by_layer'; it has none"),
        ("gumbel_rao:", "gumbel_rao has no option ''"),
        ("gumbel_rao:inner_samples", "inner_samples= is not an integer"),
        ("gumbel_rao:inner_samples=2.5", "inner_samples=2.5 is not an integer"),
        ("nvil:decay=nan", "decay=nan is not a number"),
        ("nvil:decay=0.9:decay=0.8", "gives decay twice"),
    ],
)
def test_what_is_no_option_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        options.entry(text)


@pytest.mark.parametrize(
    "text",
    [
        "gumbel_softmax:temperature=-1",
        "st_gumbel_softmax:temperature=0",
        "gumbel_rao:inner_samples=0",
        "reinmax:temperature=0",
        "relax:hidden=0",
        "rodeo:hidden=0",
        "nvil:hidden=0",
        "nvil:decay=1",
        "reinforce_ema:decay=-0.1",
        "reparam_linear_cv:decay=1",
        "exact:order=0",
    ],
)
def test_what_an_option_cannot_be_is_refused_by_the_estimator(text):
    option = text.split(":")[1].split("=")[0]
    with pytest.raises(ValueError, match=f"^{option} must be"):
        options.entry(text).make()


def test_an_estimator_of_your_own_has_its_options_too():
    seen = []

    def mine(num_samples: int = 1, scale: float = 1.0, exactly: bool = False, how: str = "plain", f=len):
        seen.append((num_samples, scale, exactly, how))
        return BY_NAME["reinforce"].make(num_samples=num_samples)

    estimators.add("mine", BY_NAME["reinforce"]._replace(make=mine))
    try:
        options.entry("mine:scale=2:exactly=true:how=fast").make(num_samples=3)
        assert seen == [(3, 2.0, True, "fast")]
        with pytest.raises(ValueError, match="exactly=1 is not true or false"):
            options.entry("mine:exactly=1")
        with pytest.raises(ValueError, match="mine has no option 'f'; its options are scale=1.0, exactly=False, how"):
            options.entry("mine:f=len")
    finally:
        del BY_NAME["mine"]
