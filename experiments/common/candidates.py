"""Which estimators a problem admits, how many samples a budget buys, and what one gradient then costs."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from experiments.common import build
from experiments.common.options import entry
from experiments.common.problems import Problem
from vae import diagnostics
from vae.estimators import BY_NAME, Estimator, Reduction, bind, mean

PyTree = Any
ORACLE = "exact"


class Case(NamedTuple):
    """One estimator with its K, ready to be measured.

    Attributes:
      slot: which of --num_samples this is; estimators of one slot are compared.
      evaluations: of f, of one datum, for one gradient.
      flops: of one compiled gradient of all parameters.
    """

    name: str
    num_samples: int
    slot: int
    evaluations: int
    flops: float


class Refused(ValueError):
    """An estimator does not work with so many samples, or with these latents, or for this budget."""


def choose(problem: Problem, objective: str, names: list[str] | None, flag: str = "estimators") -> list[str]:
    """The names that --`flag` gives, checked; without any, all that fit but the oracle.

    Raises:
      ValueError: naming one that is unknown or does not fit, and what would.
    """
    calls = posteriors(problem, objective)
    log_q = objective != "elbo_analytic"
    fits = [name for name in BY_NAME if all(BY_NAME[name].refusal(*call) is None for call in calls)]
    if names is None:
        return [name for name in fits if name != ORACLE]
    names = list(dict.fromkeys(name.strip() for name in names))
    for name in names:
        try:
            entry(name).make()
        except ValueError as error:
            raise ValueError(f"--{flag}: {error}") from None
        if name.partition(":")[0] not in fits:
            family = type(calls[0][0]).__name__
            hint = "" if log_q or not entry(name).needs_log_q else "; it can with --objective=elbo"
            what = f"{objective} with {family} latents{hint}"
            raise ValueError(f"--{flag}: {name} cannot estimate {what}; these can: {', '.join(fits)}")
    return names


def each(items: Iterable[tuple], make: Callable, asked: bool) -> list:
    """`make(*item)` of every item, which begins with an estimator's name. What is refused is left out, with a line
    that says so, unless the names were `asked` for.

    Raises:
      Refused: if one that was asked for is refused, or none is left.
    """
    made, left_out = [], []
    for item in items:
        try:
            made.append(make(*item))
        except Refused as error:
            if asked:
                raise
            left_out.append(f"left out: {item[0]}: {error}")
    for sentence in left_out:
        print(sentence)
    if not made:
        raise Refused("no estimator is left to measure")
    return made


def posteriors(problem: Problem, objective: str) -> list[tuple[Any, Reduction, float]]:
    """What the objective hands to `expect`: each q, its reduction and its log_q_weight."""
    return build.expectations(lambda expect: problem.bounds[objective](problem.params, problem.data, expect))


def multi_sample(problem: Problem, objective: str) -> bool:
    """Whether the objective is another bound for every K."""
    return any(not reduce.additive for _, reduce, _ in posteriors(problem, objective))


def parse_budget(text: str | None) -> tuple[str, float] | None:
    """("evaluations" or "flops", N) from the flag.

    Raises:
      ValueError: with an example of what it should be.
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
    return kind, value


def affordable(budget: tuple[str, float], cost, name: str) -> int:
    """The largest K whose `cost(K)` is within the budget, for a cost that grows with K; K may be refused (odd ones).
    The least K where the cost does not grow, as that of the exact gradient does not.

    Raises:
      Refused: if the least K costs more.
    """
    kind, amount = budget

    def price(k):
        """Of K, or of the K below it where K itself is refused."""
        try:
            return cost(k)
        except Refused:
            if k <= least:
                raise
            return price(k - 1)

    least = entry(name).min_samples
    if price(least) > amount:
        raise Refused(f"--budget={kind}:{amount:g} does not buy {name} its least K={least}, {cost(least):g} {kind}")
    low, high = least, 2 * least + 1
    if price(high) == price(low):
        return least
    while price(high) <= amount:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if price(middle) <= amount else (low, middle)
    while True:  # down from one that was refused
        try:
            cost(low)
            return low
        except Refused:
            low -= 1


def admitted(problem: Problem, objective: str, name: str, num_samples: int) -> Estimator:
    """The estimator, tried on log q in place of the problem's integrand, so that what is raised is its own refusal.

    Raises:
      Refused: in its words.
    """
    calls, key = posteriors(problem, objective), jax.random.key(0)

    def estimates():
        learned, counted = estimator.init(key, calls[0][0], problem.context)
        expect = bind(estimator, learned, counted, key, problem.context)
        return [expect(q, q.log_prob, reduce, log_q_weight) for q, reduce, log_q_weight in calls]

    try:
        estimator = made(problem, name, num_samples)
        jax.eval_shape(estimates)
    except (ValueError, NotImplementedError) as error:
        raise Refused(str(error)) from None
    return estimator


def made(problem: Problem, name: str, num_samples: int) -> Estimator:
    """The estimator as the problem wants it: at its temperature, and its layers one by one where it says so."""
    return build.estimator(name, num_samples, problem.temperature, problem.by_layer)


def cost(problem: Problem, objective: str, name: str, kind: str, num_samples: int) -> float:
    """Evaluations of f for one datum, or FLOP of all, of one gradient.

    Raises:
      Refused: if the estimator does not work with this K or these latents.
    """
    estimator, bound = admitted(problem, objective, name, num_samples), problem.bounds[objective]
    learned, counted = initial(problem, objective, name, num_samples)
    arguments = (problem.params, problem.data, learned, counted, problem.context)
    if kind == "flops":
        return diagnostics.flops(diagnostics.make_gradient(bound, estimator), *arguments, jax.random.key(0))

    def value(watch, key, params, data, learned, counted, context):
        bound_estimator = bind(estimator, learned, counted, key, context)

        def expect(q, f, reduce=mean, log_q_weight=0.0):
            return bound_estimator(q, watch(f), reduce, log_q_weight)

        return bound(params, data, expect).value

    return diagnostics.evaluations(value, jax.random.key(0), *arguments)


def initial(problem: Problem, objective: str, name: str, num_samples: int) -> tuple[PyTree, PyTree]:
    """(learned, counted) to begin with: what the run had, where it was trained with this estimator, else its `init`."""
    q = posteriors(problem, objective)[0][0]
    new = made(problem, name, num_samples).init(jax.random.key(0), q, problem.context)
    return problem.learned[1] if problem.learned and problem.learned[0] == name else new
