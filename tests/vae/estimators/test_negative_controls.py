"""Estimators with a published or a likely mistake. Each must fail the assertion that the table's entries pass."""

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.oracle import (
    REDUCE,
    assert_unbiased,
    oracle,
    problem,
)
from vae.estimators import (
    BY_NAME,
    Estimate,
    Estimator,
    attach,
    log_mean_exp,
    mean,
)
from vae.estimators.dreg import dreg
from vae.estimators.reinforce_ema import reinforce_ema
from vae.estimators.stl import stl
from vae.testing import slips


def _rarely_not_finite(num_samples=2):
    """The mistake is a gradient that is NaN in one of a thousand draws, as a log(0) or a 0 / 0 would make it."""
    inner = BY_NAME["leave_one_out"].make(num_samples=num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        value = inner.estimate(params, state, key, q, f, reduce, log_q_weight, context).value
        rare = jnp.where(jax.random.uniform(key) < 1e-3, jnp.nan, 0.0)
        return Estimate(attach(value, value + rare * jnp.sum(q.logits, axis=-1)), jnp.zeros(()), state)

    return Estimator(inner.init, estimate)


def test_a_gradient_that_is_rarely_not_finite_is_caught():
    with pytest.raises(AssertionError, match="phi"):
        assert_unbiased(_rarely_not_finite(), problem("Bernoulli"), mean, oracle("Bernoulli", "mean", 2), max_chunks=4)


def _reinforce_ema_with_its_own_sample(num_samples=1, decay=0.5):
    honest = reinforce_ema(num_samples, decay)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        seen = honest.estimate(params, state, key, q, f, reduce, log_q_weight, context).state
        return honest.estimate(params, seen, key, q, f, reduce, log_q_weight, context)._replace(state=seen)

    return Estimator(honest.init, estimate)


_CONTROLS = {
    "vimco without the direct term, Bernoulli": (slips.vimco_without_direct_term(), "Bernoulli", "log_mean_exp", "phi"),
    "vimco without the direct term, Normal": (slips.vimco_without_direct_term(), "Normal", "log_mean_exp", "phi"),
    "stl on the importance-weighted bound": (stl(2), "Normal", "log_mean_exp", "phi"),
    "dreg with w for the encoder": (slips.dreg_with_weights(1, 1), "Normal", "log_mean_exp", "phi"),
    "dreg with w^2 for the decoder": (slips.dreg_with_weights(1, 2), "Normal", "log_mean_exp", "theta"),
    "moving average with its own sample": (_reinforce_ema_with_its_own_sample(), "Bernoulli", "mean", "phi"),
    "leave-one-out divided by K": (slips.leave_one_out_shrunk(), "Bernoulli", "mean", "phi"),
    "stl with sampling detached": (slips.detached(stl, 1), "Normal", "mean", "phi"),
    "dreg with sampling detached": (slips.detached(dreg, 2), "Normal", "log_mean_exp", "phi"),
}


@pytest.mark.parametrize("control", _CONTROLS)
def test_negative_control_fails(control):
    estimator, family, bound, group = _CONTROLS[control]
    exact = oracle(family, bound, 2)
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(estimator, problem(family), REDUCE[bound], exact, groups=(group,), max_chunks=64)


def test_dreg_with_the_right_powers_is_unbiased():
    """The code of the negative controls is unbiased with the right powers, so the controls fail by their powers."""
    assert_unbiased(slips.dreg_with_weights(2, 1), problem("Normal"), log_mean_exp, oracle("Normal", "log_mean_exp", 2))
