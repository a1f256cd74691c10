"""The problems: their names and options, and integrands with and without a density."""

import jax
import jax.numpy as jnp
import pytest

from experiments.common import problems
from vae import distributions
from vae.estimators import BY_NAME, bind


def test_a_problem_is_made_by_name_and_options():
    problem = problems.make("coins:target=0.3:batch_size=2")
    assert problem.data["target"].tolist() == pytest.approx([0.3, 0.3])
    assert problem.identity == "coins:target=0.3:batch_size=2"
    assert problems.make("coins:target=0.45").identity == "coins"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("quantized:width=0", "^quantized:width=0: width must be above 0, got 0"),
        ("quantized:width=30", "^quantized:width=30: width must be at most 8"),
        ("table:dimensions=70", "^table:dimensions=70: dimensions must be at most 20"),
        ("coins:batch_size=-1", "^coins:batch_size=-1: batch_size must be above 0"),
        ("quantized:sigma=0", "^quantized:sigma=0.0: sigma must be above 0"),
        ("classes:categories=1", "^classes:categories=1: categories must be at least 2, got 1"),
    ],
)
def test_an_option_out_of_its_range_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        problems.make(text)


def test_log_q_weight_subtracts_the_density():
    phi = {"logits": jnp.array([0.3, -0.8])}
    f = lambda params, z: jnp.sum(z, axis=-1)
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    exact = BY_NAME["exact"].make(num_samples=1)

    def value(weight):
        problem = problems.from_integrand("mine", {"phi": phi}, posterior, f, log_q_weight=weight)
        expect = bind(exact, {}, {}, jax.random.key(0))
        return float(problem.bounds["elbo"](problem.params, problem.data, expect).value)

    p = 1 / (1 + jnp.exp(-phi["logits"]))
    entropy = float(-jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log(1 - p)))
    assert value(0.0) == pytest.approx(float(jnp.sum(p)), rel=1e-5)
    assert value(1.0) == pytest.approx(float(jnp.sum(p)) + entropy, rel=1e-5)
