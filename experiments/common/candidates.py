"""Which estimators fit a task, and how many samples a budget buys."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.common import options
from experiments.common.task import Cost, Refused, Task, least_samples, make_estimator
from vae.estimators import BY_NAME

ORACLE = "exact"


class Case(NamedTuple):
    """One estimator with its number of samples, ready to be measured.

    Attributes:
      estimator: name and options.
      num_samples: K.
      slot: index into --num_samples. Estimators of one slot are compared with each other.
      evaluations: evaluations of f for one gradient of one datum.
      flops: FLOP of one compiled gradient in all parameters.
    """

    estimator: str
    num_samples: int
    slot: int
    evaluations: float
    flops: float

    @property
    def label(self) -> str:
        return f"{self.estimator} K={self.num_samples}"


def choose(task: Task, names: list[str] | None = None, flag: str = "estimators") -> list[str]:
    """The estimators that --`flag` names, after checks. Without names: all that fit the task, except the oracle and
    those that choose among the others.

    A trained run's own estimator keeps its options.

    Raises:
      ValueError: if a name is unknown or does not fit. The message lists the estimators that fit.
    """
    fitting = [name for name in BY_NAME if task.refusal(name) is None]
    if names is None:
        trained = task.problem.trained
        is_own = trained and task.refusal(trained.name) is None
        own = {options.parse(trained.name).name: trained.name} if is_own else {}
        joined = [name for name in own.values() if options.parse(name).blocks]  # one estimator for each block
        return [own.get(name, name) for name in fitting if name != ORACLE and not BY_NAME[name].chooses] + joined
    names = list(dict.fromkeys(name.strip() for name in names))
    chosen = []
    for name in names:
        try:
            choice = options.choose(name, BY_NAME)
            make_estimator(name, least_samples(name))
        except ValueError as error:
            raise ValueError(f"--{flag}: {error}") from None
        refusal = task.refusal(name)
        if refusal is not None:
            analytic = task.objective == "elbo_analytic" and BY_NAME.find(choice.name).needs_log_q
            hint = f"; {choice.name} fits --objective=elbo" if analytic else ""
            raise ValueError(f"--{flag} with --objective={task.objective}: {refusal}{hint}")
        chosen.append(str(choice))
    return list(dict.fromkeys(chosen))


def keep_possible(make: Callable[..., Any], items: Iterable[tuple], strict: bool) -> list:
    """`make(*item)` for every item that is not refused. An item begins with an estimator's name.

    A refused item is left out, and a printed line says why. With `strict`, which is meant for estimators that the user
    named, a refusal is an error.

    Raises:
      Refused: if an item is refused and `strict` is true, or if nothing remains.
    """
    possible = []
    refusals = []
    for item in items:
        try:
            possible.append(make(*item))
        except Refused as error:
            if strict:
                raise
            refusals.append(f"left out: {item[0]}: {error}")
    for refusal in refusals:
        print(refusal)
    if not possible:
        raise Refused("no estimator is left to measure")
    return possible


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


def affordable(budget: Budget, cost: Callable[[int], float], name: str) -> int:
    """The largest K with `cost(K)` within the budget.

    The cost must grow with K or be constant. If it is constant, as for the exact gradient, the smallest K is returned.
    Some K may be refused, such as odd ones. `cost` should remember its results, because a K is asked for repeatedly.

    Raises:
      Refused: if even the smallest K costs more than the budget.
    """
    least = least_samples(name)

    def price(k: int) -> float:
        """The cost of K, or of the next smaller K if K itself is refused."""
        try:
            return cost(k)
        except Refused:
            if k <= least:
                raise
            return price(k - 1)

    if price(least) > budget.amount:
        given = f"{budget.kind}:{budget.amount:g}"
        raise Refused(f"--budget={given} is too small for {name}: K={least} costs {cost(least):g} {budget.kind}")
    slope = (price(2 * least) - price(least)) / least
    if slope == 0 and price(2 * least + 1) == price(least):
        return least
    # The cost of almost every estimator is affine in K, so the guess is right after two costs. Each further doubling
    # of the step corrects it where the cost is not affine.
    low = high = least + int((budget.amount - price(least)) / slope) if slope > 0 else least
    step = 1
    while low > least and price(low) > budget.amount:
        high = low
        low = max(least, low - step)
        step *= 2
    step = 1
    while high == low or price(high) <= budget.amount:
        low = high
        high += step
        step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if price(middle) <= budget.amount:
            low = middle
        else:
            high = middle
    while True:  # go down from a K that is refused
        try:
            cost(low)
            return low
        except Refused:
            low -= 1
