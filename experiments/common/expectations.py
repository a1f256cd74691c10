"""Whether an estimator suits the expectations that an objective hands to it."""

from experiments.common import options
from vae import estimators
from vae.diagnostics.expectations import Expectation as Expectation
from vae.diagnostics.expectations import host_calls as host_calls
from vae.diagnostics.expectations import record as record
from vae.hierarchy import Markov


def refusal(choice: options.Choice, expectation: Expectation, black_box: bool = False) -> str | None:
    """Why the estimator cannot differentiate the expectation, and what could; None if it can.

    `black_box` says whether f has no gradient in z.
    """
    q, *others = expectation.q, expectation.reduce, expectation.log_q_weight, black_box, expectation.f
    entry = estimators.BY_NAME.find(choice.name)
    if choice.blocks:
        return entry.refusal(q, *others)
    layers = isinstance(q, Markov) and expectation.reduce.additive
    if options.values(choice, estimators.BY_NAME)["by_layer"]:
        if layers:
            return entry.refusal(q.first, *others)
        return "by_layer=true needs several stochastic layers and a bound that is a mean over samples; leave it out"
    reason = entry.refusal(q, *others)
    if reason and layers and not entry.differentiates_f and entry.refusal(q.first, *others) is None:
        return f"{reason}; {choice}:by_layer=true can"
    return reason
