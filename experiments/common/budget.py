"""The flag --budget: the largest cost of a gradient, and how many samples each estimator gets for it."""

import bisect
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from experiments.common import grammar
from vae.diagnostics.expectations import Expectation

Cost = Literal["evaluations", "flops"]


class Refused(ValueError):
    """An estimator does not work with this number of samples, with these latents or within this budget."""


class Budget(NamedTuple):
    """The largest cost that one gradient may have."""

    kind: Cost
    amount: float


def parse_budget(text: str | None) -> Budget | None:
    """The budget that --budget gives, if there is one.

    Raises:
      ValueError: if the text is not a budget. The message has an example.
    """
    if text is None:
        return None
    kind, _, amount = text.partition(":")
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if kind not in ("evaluations", "flops") or not value > 0 or math.isinf(value):
        raise ValueError(f"--budget={text} is neither evaluations:N nor flops:N; for example --budget=evaluations:8")
    return Budget(kind, value)


def check_objective(objective: str, expectations: list[Expectation]) -> None:
    """Refuses an objective whose bound is a different bound for each number of samples.

    Raises:
      ValueError: A sentence that names --budget and --objective.
    """
    if any(not expectation.reduce.additive for expectation in expectations):
        raise ValueError(
            f"--budget gives each estimator its own K, but --objective={objective} is a different bound for each K;"
            " give --num_samples"
        )


def affordable(budget: Budget, cost: Callable[[int], float], name: str) -> int:
    """The largest K with `cost(K)` within the budget.

    The cost must grow with K or be constant. If it is constant, as for the exact gradient, the smallest K is returned.
    Some K may be refused, such as odd ones.

    Raises:
      Refused: if even the smallest K costs more than the budget.
    """
    least = grammar.least_samples(name)
    cost = functools.cache(cost)

    def accepted(k: int) -> int:
        """K, or the largest smaller K that is not refused."""
        while True:
            try:
                cost(k)
                return k
            except Refused:
                if k <= least:
                    raise
                k -= 1

    def price(k: int) -> float:
        return cost(accepted(k))

    if price(least) > budget.amount:
        given = f"{budget.kind}:{budget.amount:g}"
        raise Refused(f"--budget={given} is too small for {name}: K={least} costs {cost(least):g} {budget.kind}")
    slope = (price(2 * least) - price(least)) / least
    if slope == 0 and price(2 * least + 1) == price(least):
        return least
    # The cost of almost every estimator is affine in K, so the guess is right after two costs. Elsewhere the search
    # goes down or up from the guess, in growing steps.
    guess = least + int((budget.amount - price(least)) / slope) if slope > 0 else least
    low, high = guess, guess + 1
    while price(low) > budget.amount:
        low, high = max(least, low - 2 * (high - low)), low
    while price(high) <= budget.amount:
        low, high = high, high + 2 * (high - low)
    too_large = bisect.bisect_right(range(high), budget.amount, lo=low, key=price)
    return accepted(too_large - 1)
