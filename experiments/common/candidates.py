"""Which estimators fit a task."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.common import grammar
from experiments.common.budget import Refused
from experiments.common.task import Task, make_estimator
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
        own = {grammar.parse(trained.name).name: trained.name} if is_own else {}
        joined = [name for name in own.values() if grammar.parse(name).blocks]  # one estimator for each block
        return [own.get(name, name) for name in fitting if name != ORACLE and not BY_NAME[name].chooses] + joined
    chosen = check(names, flag)
    for name in chosen:
        if refusal := task.refusal(name):
            raise ValueError(f"--{flag}={name}: {refusal}")
    return chosen


def check(names: list[str], flag: str) -> list[str]:
    """The estimators that --`flag` names, in their canonical spelling.

    Raises:
      ValueError: if a name is unknown, empty or given twice, or if an option is wrong.
    """
    names = [name.strip() for name in names]
    grammar.check_list(names, flag)
    chosen = []
    for name in names:
        try:
            chosen.append(str(grammar.choose(name, BY_NAME)))
        except ValueError as error:
            raise ValueError(f"--{flag}={name}: {error}") from None
        try:
            make_estimator(name, grammar.least_samples(name))
        except ValueError as error:  # the sentence begins with the name
            raise ValueError(f"--{flag}={error}") from None
    grammar.check_list(chosen, flag)
    return chosen


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
