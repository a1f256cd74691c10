"""The expectations that an objective hands to its estimator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae.diagnostics import cost
from vae.diagnostics.cost import HostCalls
from vae.estimators import BY_NAME
from vae.estimators.contract import Estimate, Expect, Reduction, mean


class Expectation(NamedTuple):
    """E[reduce(f(z_k) - log_q_weight log q(z_k))], z_k ~ q."""

    q: Any
    reduce: Reduction
    log_q_weight: float
    f: Callable


def record(bound: Callable[[Expect], Estimate]) -> list[Expectation]:
    """The expectations of `bound(expect)`, in order. Nothing is sampled.

    A `log_q_weight` that is computed, as in a warm-up, is recorded as 1: it lives only as long as the trace.
    """
    recorded = []

    def expect(q, f, reduce=mean, log_q_weight=0.0):
        weight = 1.0 if isinstance(log_q_weight, jax.Array) else log_q_weight
        recorded.append(Expectation(q, reduce, weight, f))
        return Estimate(jnp.zeros(q.batch_shape), jnp.zeros(()), {})

    bound(expect)
    return recorded


def host_calls(recorded: list[Expectation]) -> HostCalls:
    """The calls of functions on the host, such as a simulator in NumPy, from inside the integrands f."""
    integrands = lambda key: [expectation.f(expectation.q.sample(key, 2)) for expectation in recorded]
    return cost.host_calls(integrands, jax.random.key(0))


def refusal(name: str, recorded: list[Expectation], black_box: bool) -> str | None:
    """Why the estimator does not fit all of these expectations, and which ones do; None if it fits.

    `black_box` says whether the integrands have no gradient in z.
    """
    refusals = (BY_NAME[name].refusal(q, reduce, weight, black_box, f) for q, reduce, weight, f in recorded)
    return next((refusal for refusal in refusals if refusal is not None), None)
