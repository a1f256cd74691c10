"""The expectations that an objective hands to its estimator, and whether an estimator suits them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments.common import options
from vae import estimators
from vae.hierarchy import Markov


class Expectation(NamedTuple):
    """E[reduce(f(z_k) - log_q_weight log q(z_k))], z_k ~ q, without f, which no fit depends on."""

    q: Any
    reduce: estimators.Reduction
    log_q_weight: float


def record(bound: Callable[[estimators.Expect], estimators.Estimate]) -> list[Expectation]:
    """The expectations of `bound(expect)`, in order. Nothing is sampled."""
    recorded = []

    def expect(q, f, reduce=estimators.mean, log_q_weight=0.0):
        recorded.append(Expectation(q, reduce, log_q_weight))
        return estimators.Estimate(jnp.zeros(q.batch_shape), jnp.zeros(()), {})

    bound(expect)
    return recorded


def refusal(choice: options.Choice, expectation: Expectation) -> str | None:
    """Why the estimator cannot differentiate the expectation, and what could; None if it can."""
    q, reduce, log_q_weight = expectation
    entry = estimators.BY_NAME[choice.name]
    layers = isinstance(q, Markov) and reduce.additive
    if options.ESTIMATORS.values(choice)["by_layer"]:
        if layers:
            return entry.refusal(q.first, reduce, log_q_weight)
        return "by_layer=true needs several stochastic layers and a bound that is a mean over samples; leave it out"
    reason = entry.refusal(q, reduce, log_q_weight)
    if reason and layers and not entry.differentiates_f and entry.refusal(q.first, reduce, log_q_weight) is None:
        return f"{reason}; {choice}:by_layer=true can"
    return reason
