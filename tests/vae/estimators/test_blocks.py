"""One estimator for each block, against enumeration and quadrature of both blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from tests.helpers import mixed_latents
from tests.helpers.mixed_latents import BLOCKS, deviations
from vae import diagnostics, estimators
from vae import distributions as dist
from vae.estimators import Estimator, blocks, log_mean_exp

EXACT = estimators.exact(order=32)
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


def off(deviations):
    """The groups that deviate from the truth by more than 4.5 standard errors."""
    return {group for group, (z, _) in deviations.items() if not z < 4.5}


def changed(estimator, change):
    """The estimator with the q and the log_q_weight that `change` returns; a mistake on purpose."""

    def estimate(params, state, key, q, f, reduce, log_q_weight, context):
        q, log_q_weight = change(q, log_q_weight)
        return estimator.estimate(params, state, key, q, f, reduce, log_q_weight, context)

    return Estimator(estimator.init, estimate)


@pytest.mark.parametrize("name", [slow("class, Gaussian"), "class -> Gaussian", slow("Gaussian -> bits")])
def test_exact_blocks_are_the_exact_joint_expectation(name):
    """If the second block depends on the first, the first block's estimator differentiates through the second's."""
    assert not off(deviations(blocks([EXACT, EXACT]), name, draws=2))


def test_blocks_have_noise_of_their_own():
    """The mean of z_1 z_2 is 0 for two standard normal blocks; it would be 1 with the same noise."""
    normal = dist.Normal(np.zeros(1, np.float32), np.zeros(1, np.float32))
    q, estimator = dist.Product((normal, normal)), blocks([estimators.reparam(), estimators.reparam()])
    product = lambda z: z[0][..., 0] * z[1][..., 0]
    value = lambda key: estimator.estimate(((), ()), ((), ()), key, q, product).value
    values = jax.jit(jax.vmap(value))(jax.random.split(jax.random.key(0), 4096))
    assert abs(np.mean(values)) < 4.5 / np.sqrt(4096)


def test_a_lost_gradient_and_a_divergence_counted_twice_are_found():
    without_score = changed(EXACT, lambda q, weight: (stop_gradient(q), weight))
    assert off(deviations(blocks([without_score, EXACT]), "class -> Gaussian", draws=2)) == {"discrete"}
    counted_twice = changed(EXACT, lambda q, weight: (q, 2 * weight))
    found = off(deviations(blocks([EXACT, counted_twice]), "class -> Gaussian", draws=2))
    assert found == {"value", "discrete", "gaussian", "slope"}


UNBIASED = [
    ("exact+reparam", "class -> Gaussian"),
    *(
        slow(*case)
        for case in [
            ("exact+reparam", "class, Gaussian"),
            ("leave_one_out+reparam", "class -> Gaussian"),
            ("carms+reparam_antithetic", "class, Gaussian"),
            ("exact+measure_valued", "class -> Gaussian"),
            ("leave_one_out+reparam", "class, Gaussian"),
            ("nvil+reinforce_ema", "class -> Gaussian"),
            ("exact+nvil", "bits -> Gaussian"),
            ("disarm+stl", "bits, Gaussian"),
            ("disarm+stl", "bits -> Gaussian"),
            ("relax+reparam", "bits -> Gaussian"),
            ("muprop+reparam", "bits, Gaussian"),
            ("double_cv+reparam", "bits -> Gaussian"),
            ("local_expectation+reparam_linear_cv", "bits -> Gaussian"),
            ("reparam+leave_one_out", "Gaussian -> bits"),
            ("stl+disarm", "Gaussian -> bits"),
            ("reparam+exact", "Gaussian -> bits"),
        ]
    ),
]


@pytest.mark.parametrize(("names", "name"), UNBIASED)
def test_the_gradients_of_both_blocks_and_of_f_are_unbiased(names, name):
    report = deviations(estimators.make(names), name, draws=2**16 if names == "exact+reparam" else 2**18)
    assert not off(report), report
    assert max(stderr for _, stderr in report.values()) < 0.02, report


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS[:2])
def test_reinmax_is_biased_in_its_own_block_alone_and_exact_for_a_quadratic(name):
    estimator = estimators.make("reinmax+reparam")
    assert off(deviations(estimator, name)) == {"discrete"}
    if name == "class, Gaussian":
        assert not off(deviations(estimator, name, log_q_weight=0.0, quadratic=True))


@pytest.mark.slow
def test_a_dependence_without_its_derivative_gives_a_bias():
    """The mistake is a second block whose parameters do not pass the derivative on to the first."""
    held = changed(estimators.leave_one_out(), lambda q, weight: (dist.Bernoulli(_detach(q.logits)), weight))
    assert "gaussian" in off(deviations(blocks([estimators.reparam(), held]), "Gaussian -> bits"))


@jax.custom_jvp
def _detach(x):
    return x


_detach.defjvp(lambda primals, tangents: (_detach(*primals), 0 * tangents[0]))


def test_the_numbers_of_evaluations_multiply():
    name = "class, Gaussian"
    tree = mixed_latents.parameters(name)
    q, f = mixed_latents.posterior(tree, name), mixed_latents.cost(tree, name)
    bound = lambda params, data, expect: expect(q, f, log_q_weight=1.0)
    count = lambda estimator: diagnostics.evaluations(
        bound, estimator, jax.random.key(0), {}, learned=({}, {}), counted=({}, {})
    )
    assert count(blocks([EXACT, estimators.reparam(num_samples=2)])) == 3 * 2


def test_a_state_and_params_of_a_block_come_back_in_their_shapes():
    name = "class, Gaussian"
    tree = mixed_latents.parameters(name)
    q, f = mixed_latents.posterior(tree, name), mixed_latents.cost(tree, name)
    estimator = estimators.make("leave_one_out+reinforce_ema")

    def run(key):
        params, state = estimator.init(key, q, None)
        return state, estimator.estimate(params, state, key, q, f, log_q_weight=1.0)

    before, estimate = jax.jit(run)(jax.random.key(0))
    assert jax.tree.structure(before) == jax.tree.structure(estimate.state)
    assert int(estimate.state[1]["count"]) == int(before[1]["count"]) + 1
    assert estimate.value.shape == (2,)


def test_what_does_not_fit_is_refused():
    q = dist.Product((dist.Categorical(jnp.zeros((2, 1, 3))), dist.Normal(jnp.zeros((2, 1)), jnp.zeros((2, 1)))))
    f = lambda z: jnp.sum(z[1], axis=-1)
    call = lambda estimator, q, *bound: estimator.estimate(({}, {}), ({}, {}), jax.random.key(0), q, f, *bound)
    pair = estimators.make("exact+reparam")
    with pytest.raises(ValueError, match="2 estimators need a posterior of 2 blocks .* got Normal with 1"):
        call(pair, q.blocks[1])
    with pytest.raises(ValueError, match="only the reduction mean, got log_mean_exp; use reduce=mean"):
        call(pair, q, log_mean_exp)
    with pytest.raises(ValueError, match="reparam cannot estimate gradients with Categorical latents; .*leave_one_out"):
        call(estimators.make("reparam+exact"), q)
    with pytest.raises(ValueError, match="reparam .* Product latents; give one estimator for each block, such as"):
        call(estimators.reparam(), q)
    with pytest.raises(
        ValueError, match="dreg .* Product latents; choose objective=elbo .*, and give one estimator for"
    ):
        call(estimators.dreg(), q, log_mean_exp, 1.0)


def test_the_entry_of_joined_names_says_what_its_parts_say():
    entry = estimators.BY_NAME.find("reinmax+stl")
    assert (entry.biased, entry.needs_log_q, entry.differentiates_f, entry.min_samples) == (True, True, True, 1)
    assert entry.display == "ReinMax + STL"
    assert not entry.chooses
    q = dist.Product((dist.Bernoulli(np.zeros(2)), dist.Normal(np.zeros(2), np.zeros(2))))
    assert entry.refusal(q, log_q_weight=1.0) is None
    assert "stl needs log q(z)" in entry.refusal(q, log_q_weight=0.0)
    assert "reinmax differentiates f" in entry.refusal(q, log_q_weight=1.0, black_box=True)
