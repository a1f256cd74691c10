"""The grammar `name:option=value:option=value`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import grammar
from experiments.common.grammar import Choice
from vae import distributions, estimators
from vae.estimators import BY_NAME
from vae.table import Table


def fruit(size: float, /, ripe: bool = False, weight: float = 1.0, seeds: int = 3, colour: str = "red", cut=len):
    """A factory with an option of each type. `size` and `cut` are not options."""
    if weight <= 0:
        raise ValueError(f"weight must be positive, got {weight}")
    return size, ripe, weight, seeds, colour, cut


FRUITS = Table("fruit", {"apple": fruit, "stone": lambda size: None}, leading=1, reserved=("seeds",))


def test_options_have_the_types_of_their_defaults():
    choice = grammar.choose("apple:weight=2:ripe=true:colour=green", FRUITS)
    assert choice == Choice("apple", (("ripe", True), ("weight", 2.0), ("colour", "green")))
    assert grammar.values(choice, FRUITS) == {"ripe": True, "weight": 2.0, "colour": "green"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("apple", "apple"),
        ("apple:weight=1:ripe=false", "apple"),
        ("apple:weight=2:ripe=true", "apple:ripe=true:weight=2.0"),
        ("apple:weight=1e-8", "apple:weight=1e-08"),
    ],
)
def test_one_choice_has_one_text(text, canonical):
    choice = grammar.choose(text, FRUITS)
    assert str(choice) == canonical
    assert grammar.choose(canonical, FRUITS) == choice


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("aple", "there is no fruit 'aple' \\(did you mean apple\\?\\); choose one of apple, stone"),
        ("", "there is no fruit ''; choose one of apple, stone"),
        ("apple:size=1", "apple has no option 'size'; its options are ripe=false, weight=1.0, colour=red"),
        ("apple:seeds=1", "apple has no option 'seeds'; its options are"),
        ("apple:cut=len", "apple has no option 'cut'; its options are"),
        ("stone:weight=1", "stone has no option 'weight'; it has no options"),
        ("apple+stone", "apple.stone has several names, joined by .; choose one fruit"),
        ("apple:", "'' is not option=value"),
        ("apple:weight", "'weight' is not option=value"),
        ("apple:weight=", "'weight=' is not option=value"),
        ("apple:=2", "'=2' is not option=value"),
        ("apple:weight=heavy", "weight=heavy is not a number"),
        ("apple:weight=nan", "weight=nan is not a finite number"),
        ("apple:weight=1e-50", "weight=1e-50 does not fit into 32 bits"),
        ("apple:weight=-1e39", "weight=-1e39 does not fit into 32 bits"),
        ("apple:ripe=1", "ripe=1 is not true or false"),
        ("apple:colour=\x1b[31m", "cannot be printed"),
        ("apple:weight=2:weight=3", "gives weight twice"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_what_can(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        grammar.choose(text, FRUITS)


def test_the_factory_gets_the_options_and_may_refuse_them():
    table = Table("fruit", {"apple": lambda **given: given, "pear": lambda weight=1.0: fruit(1.0, weight=weight)})
    assert grammar.build(Choice("apple", (("ripe", True),)), table, size=2) == {"ripe": True, "size": 2}
    with pytest.raises(ValueError, match="^pear:weight=-1.0: weight must be positive, got -1.0"):
        grammar.build(grammar.choose("pear:weight=-1", table), table)


# --- estimators


def _gradient(estimator, q):
    """The derivative of a Monte Carlo value in the logits of q, at fixed keys."""
    f = lambda z: jnp.sum(z * jnp.arange(z.shape[-1]), axis=(-2, -1)) ** 2

    def value(logits):
        params, state = estimator.init(jax.random.key(0), q)
        return estimator.estimate(params, state, jax.random.key(1), distributions.Categorical(logits), f).value

    return jax.device_get(jax.jit(jax.grad(value))(q.logits))


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("gumbel_rao", "gumbel_rao", {}),
        ("gumbel_rao:inner_samples=3", "gumbel_rao", {"inner_samples": 3}),
        ("gumbel_rao:temperature=2:inner_samples=3", "gumbel_rao", {"inner_samples": 3, "temperature": 2.0}),
        ("unordered_set:k=4", "unordered_set", {"k": 4}),
    ],
)
def test_an_estimator_is_made_with_its_options(text, name, given):
    q = distributions.Categorical(np.float32(np.random.default_rng(1).normal(size=(2, 5))))
    gradient = _gradient(grammar.build(grammar.choose(text, BY_NAME), BY_NAME, num_samples=2), q)
    np.testing.assert_array_equal(gradient, _gradient(estimators.make(name, num_samples=2, **given), q))
    assert np.array_equal(gradient, _gradient(estimators.make(name, num_samples=2), q)) == (not given)


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
def test_a_value_that_an_estimator_cannot_have_is_refused(text):
    choice = grammar.choose(text, BY_NAME)
    [(option, _)] = choice.options
    with pytest.raises(ValueError, match=f"{option} must be"):
        grammar.build(choice, BY_NAME, num_samples=2)
