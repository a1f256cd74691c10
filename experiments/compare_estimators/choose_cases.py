"""The estimators to measure, and how many samples each of them gets."""

import functools

from experiments.common import candidates, measuring, phases
from experiments.common.budget import Budget, Cost, Refused, affordable, check_objective, parse_budget
from experiments.common.candidates import Case
from experiments.common.grammar import least_samples
from experiments.common.store import Store
from experiments.common.task import Task
from experiments.compare_estimators.flags import Options


def numbers_of_samples(options: Options, task: Task) -> list[int]:
    """Every K of --num_samples, in order."""
    return sorted(options.num_samples or [task.problem.num_samples])


def choose_budget(options: Options, task: Task) -> Budget | None:
    """The budget that --budget gives; None without --budget.

    Raises:
      ValueError: if --budget is malformed, or cannot be combined with --num_samples or with this objective.
    """
    budget = parse_budget(options.budget)
    if budget and options.num_samples:
        raise ValueError("--budget chooses K; leave out --num_samples")
    if budget:
        check_objective(task.objective, task.expectations)
    return budget


def choose_cases(
    task: Task, names: list[str], samples: list[int], budget: Budget | None, strict: bool, store: Store
) -> list[Case]:
    """Every estimator with every K, or with the K that the budget buys. The costs of all cases are stored.

    With `strict`, an estimator that cannot work raises an error; otherwise it is left out, and a printed line says why.
    """

    def case(name: str, slot: int, wanted: int | None) -> Case:
        cost = functools.cache(lambda kind, num_samples: _recall_cost(task, kind, name, num_samples, store))
        if budget:
            num_samples = affordable(budget, functools.partial(cost, budget.kind), name)
        else:
            num_samples = max(wanted, least_samples(name))
            if num_samples > wanted and task.is_multi_sample:
                raise Refused(
                    f"{name} needs K={num_samples}, and --objective={task.objective} is a different bound for"
                    f" K={wanted}"
                )
        return Case(name, num_samples, slot, cost("evaluations", num_samples), cost("flops", num_samples))

    slots = enumerate([None] if budget else samples)
    items = [(name, slot, wanted) for slot, wanted in slots for name in names]
    title = "choosing K" if budget else "counting the cost"
    label = lambda item: item[0] if budget else f"{item[0]} K={max(item[2], least_samples(item[0]))}"
    cases = candidates.keep_possible(case, phases.each(items, title, label), strict)
    for chosen in cases if budget else ():
        print(f"the budget buys {chosen.label}")
    return cases


def _recall_cost(task: Task, kind: Cost, name: str, num_samples: int, store: Store) -> float:
    measure = lambda: {"cost": task.cost(kind, name, num_samples)}
    return store.recall(measuring.digest(kind, task, name, num_samples), measure)["cost"]
