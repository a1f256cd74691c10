"""The estimator whose mean is the true gradient."""

import jax.numpy as jnp
import pytest

from vae import diagnostics
from vae.diagnostics.expectations import Expectation
from vae.distributions import Bernoulli, Categorical, Normal
from vae.estimators import log_mean_exp, mean

BITS = lambda batch, number: Bernoulli(jnp.zeros((batch, number)))


@pytest.mark.parametrize(
    ("q", "reduce", "num_samples", "expected"),
    [
        (BITS(1, 16), mean, 8, ("exact", 8)),
        (BITS(1, 17), mean, 8, ("leave_one_out", 8)),
        (BITS(64, 10), mean, 1, ("exact", 1)),
        (BITS(64, 11), mean, 1, ("leave_one_out", 2)),
        (BITS(64, 8), log_mean_exp, 2, ("exact", 2)),
        (BITS(64, 8), log_mean_exp, 3, ("leave_one_out", 3)),
        (Categorical(jnp.zeros((16, 3, 16))), mean, 1, ("exact", 1)),  # 16^4 states in the batch
        (Categorical(jnp.zeros((17, 3, 16))), mean, 1, ("leave_one_out", 2)),
        (Normal(jnp.zeros((1, 1)), jnp.zeros((1, 1))), mean, 1, ("reparam", 1)),
    ],
)
def test_the_truth_is_a_sum_if_a_batch_has_at_most_2_to_the_16_states_and_k_samples_as_many_tuples(
    q, reduce, num_samples, expected
):
    recorded = [Expectation(q, reduce, 1.0, lambda z: jnp.sum(z, range(2, z.ndim)))]
    assert diagnostics.choose_reference(recorded, num_samples) == expected
    assert diagnostics.has_few_states(recorded, num_samples) == (expected[0] == "exact")
