"""`compare`: which of several estimators is better on a model, by how much, at what cost, and which are biased."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae import objectives
from vae.diagnostics import cost, expectations, figures, intervals, moments, verdicts
from vae.diagnostics.moments import Moments, PyTree, Truth
from vae.diagnostics.references import choose_reference
from vae.estimators import BY_NAME, Estimator, make

Fitted = Mapping[str, tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `print` shows it as a table.

    `experiments.common.plots.comparison(result)` draws the variance against the cost. This library draws nothing.

    Attributes:
      columns: an array for each column, with an element for each estimator and group of parameters. Beside the columns
        of the printed table, they are the ends of the intervals, `*_low` and `*_high`, and the figures behind the
        verdict about the bias.
      reference: the origin of the true gradient, in words.
      draws: number of gradients of each estimator.
      confidence: the level of each interval of a bias, a variance and an SNR, and of all comparisons of one group at
        once.
      judge_by: the cost that decides, evaluations or flops.
    """

    columns: Mapping[str, np.ndarray]
    reference: str
    draws: int
    confidence: float
    judge_by: str = "flops"

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns, for `pandas.DataFrame(result.to_dict())`."""
        return dict(self.columns)

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each estimator and group of parameters."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def __str__(self) -> str:
        table = self._cells()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        return "\n".join([*lines, self._note()])

    def _repr_markdown_(self) -> str:
        head, *body = (f"| {' | '.join(row)} |" for row in self._cells())
        return "\n".join([head, "|---" * len(self._cells()[0]) + "|", *body, "", self._note()])

    def _cells(self) -> list[list[str]]:
        head = [
            "group",
            "estimator",
            "evaluations",
            "FLOP",
            "bias (%)",
            "variance",
            "SNR",
            f"variance x {self._cost}",
            "verdict",
        ]
        return [head, *map(_cells_of_row, self.rows())]

    @property
    def _cost(self) -> str:
        return "FLOP" if self.judge_by == "flops" else self.judge_by

    def _note(self) -> str:
        star = "; * is biased by its paper" if any(self.columns["declared_biased"]) else ""
        return (
            f"{self.draws:,} draws each; truth: {self.reference}; variance x {self._cost} relative to the best;"
            f" brackets are {100 * self.confidence:g} % intervals, in the last column for all pairs of a group at"
            f" once, and 'within 1 % of best' if all of it is from 1 / 1.01 to 1.01{star}"
        )


def _cells_of_row(row: dict[str, Any]) -> list[str]:
    between = lambda name, scale=1: f"[{scale * row[f'{name}_low']:.3g}, {scale * row[f'{name}_high']:.3g}]"
    ratio = f"{row['to_best']:.3g}"
    return [
        row["group"],
        row["estimator"] + (" *" if row["declared_biased"] else ""),
        str(row["evaluations"]),
        f"{row['flops']:.3g}",
        f"{100 * row['bias']:.2g} {between('bias', 100)}",
        f"{row['variance']:.3g} {between('variance')}",
        f"{row['snr']:.2g}",
        f"{ratio} {between('to_best')}" if np.isfinite(row["to_best_low"]) else ratio,
        row["verdict"],
    ]


def compare(
    model: nn.Module | Callable,
    params: PyTree,
    x: PyTree,
    estimators: Mapping[str, int | np.integer | Estimator],
    objective: objectives.Objective = objectives.elbo,
    *,
    key: Array,
    draws: int = 1000,
    chunks: int = 20,
    reference: Estimator | None = None,
    reference_draws: int | None = None,
    fitted: Fitted | None = None,
    confidence: float = 0.95,
    judge_by: str | None = None,
) -> Comparison:
    """Compares gradient estimators of a bound of a model, at fixed parameters and data.

    The gradient is that of the bound's mean over the batch, and its groups are the children of `params["params"]`: the
    model's submodules, such as encoder and decoder. The true gradient is the sum over all states of discrete latents,
    if there are few. Otherwise it is the mean of many gradients of `reference`, whose error counts in every verdict.
    All estimators draw with the same keys. `is_biased` and `judge` have the rules of the verdicts.

    Each gradient is one call of a compiled program. On a CPU, the same convolutions take about twice the time inside a
    loop of the program, such as `lax.map`.

    Args:
      model: a Flax linen module with the methods that the objective calls, its `apply`, or a function
        `apply(variables, *args, method=name)`.
      params: the model's variables, as `model.init` returns them: a dict whose value for "params" is a pytree of float
        arrays, such as a dict of submodules. Only "params" is differentiated.
      x: a batch `[B, H, W, C]`, or a pytree of arrays with the axis B, as the model takes it.
      estimators: for a name in the table of estimators its number of samples K; for any other name an `Estimator`.
      objective: the bound.
      key: a PRNG key.
      draws: number of gradients of each estimator, a multiple of `chunks`.
      chunks: number of chunks of draws, which the bootstrap resamples.
      reference: an unbiased estimator. For a multi-sample bound it has the same K as the others. By default reparam, or
        leave_one_out where that does not fit, with the K of the estimators.
      reference_draws: number of gradients that the reference averages, a multiple of `chunks`; by default 4 x draws.
      fitted: params and state of estimators that have some, as they are after training; by default as initialized. For
        a `TrainState`, they are `state.params["estimator"]` and `state.estimator_state`.
      confidence: the familywise level.
      judge_by: the cost that decides, evaluations or flops. By default flops, or evaluations if the bound calls the
        host, whose FLOP XLA does not count.

    Raises:
      TypeError: if `objective` is a factory of objectives, or if the model is neither a module nor such a function.
      ValueError: if `params["params"]` is missing or is no pytree of float arrays, if an estimator is unknown or does
        not fit, if the numbers of draws are no multiples of `chunks`, if the bound calls the host and is to be judged
        by FLOP, or if a multi-sample bound, which is a different bound for each K, gets several K, or one below the
        reference's.
    """
    objectives.BY_NAME.refuse_factory(objective)
    _check_params(params)
    reference_draws = reference_draws or 4 * draws
    for name, number in {"draws": draws, "reference_draws": reference_draws}.items():
        if number % chunks or number < 2 * chunks:
            raise ValueError(f"{name}={number} must be a multiple of chunks={chunks}, and at least {2 * chunks}")
    estimators = {name: int(given) if isinstance(given, np.integer) else given for name, given in estimators.items()}
    task = _Task(getattr(model, "apply", model), params, jax.tree.map(jnp.asarray, x), objective)
    key_draws, key_reference, key_init = jax.random.split(key, 3)
    host_calls = expectations.host_calls(task.expectations).names
    allowed = ("evaluations",) if host_calls else ("flops", "evaluations")
    judge_by = judge_by or allowed[0]
    if judge_by not in allowed:
        why = f", because the bound calls the host ({host_calls[0]})" if host_calls else ""
        raise ValueError(f"judge_by={judge_by} must be {' or '.join(allowed)}{why}")
    numbers = sorted({given for given in estimators.values() if isinstance(given, int)})
    if not task.is_additive and len(numbers) != 1 and reference is None:
        raise ValueError(
            f"the bound is a different one for each K, and the estimators have K={numbers or '?'}; give all of them the"
            " same K, or give a reference"
        )
    cases = {}
    for name, given in estimators.items():
        if isinstance(given, int) and (refusal := task.refusal(name) if name in BY_NAME else None):
            raise ValueError(refusal)
        estimator = given if isinstance(given, Estimator) else make(name, num_samples=given)
        cases[name] = _make_case(task, estimator, key_init, (fitted or {}).get(name))
    known = _find_truth(task, max(numbers, default=1), reference, _Draws(key_reference, reference_draws, chunks))
    entrants = []
    for name, case in cases.items():
        moments_of_case = _draw_moments(case, _Draws(key_draws, draws, chunks))
        report, by_chunk = jax.device_get(_figures_program()(moments_of_case, known.truth))
        report = {part: {figure: float(value) for figure, value in row.items()} for part, row in report.items()}
        costs = {"evaluations": task.evaluations(case), "flops": task.flops(case)}
        is_declared = isinstance(estimators[name], int) and BY_NAME[name].biased
        head = {"estimator": name, **costs, "declared_biased": is_declared}
        entrants.append(_Entrant(head, report, by_chunk))
    groups = moments.groups(params["params"])
    is_unbiased = [_is_unbiased(entrant, groups, draws, chunks, confidence) for entrant in entrants]
    rows = [row for group in groups for row in _rows(group, entrants, is_unbiased, draws, chunks, confidence, judge_by)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Comparison(columns, known.source, draws, confidence, judge_by)


def _check_params(params: PyTree) -> None:
    if not isinstance(params, Mapping) or "params" not in params:
        raise ValueError('params must be a dict with the key "params", such as the variables that model.init returns')
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f'params["params"]{jax.tree_util.keystr(path)} is a {type(leaf).__name__} and not a float array; in'
                " Equinox, eqx.filter(model, eqx.is_inexact_array) has the arrays alone"
            )


class _Task(NamedTuple):
    """The gradient of a bound of a model at fixed variables and data."""

    apply: Callable
    variables: PyTree
    x: PyTree
    objective: objectives.Objective

    def bound(self, params: PyTree, x: PyTree, expect: Callable):
        return self.objective(self.apply, {**self.variables, "params": params}, x, expect)

    @property
    def params(self) -> PyTree:
        return self.variables["params"]

    @property
    def expectations(self) -> list[expectations.Expectation]:
        return expectations.record(lambda expect: self.bound(self.params, self.x, expect))

    @property
    def is_additive(self) -> bool:
        """Whether the bound is the same for every number of samples."""
        return all(expectation.reduce.additive for expectation in self.expectations)

    @property
    def black_box(self) -> bool:
        return not expectations.host_calls(self.expectations).are_differentiable

    def refusal(self, name: str) -> str | None:
        """Why the estimator does not fit, and which ones do; None if it fits."""
        return expectations.refusal(name, self.expectations, self.black_box)

    def evaluations(self, case: "_Case") -> float:
        return cost.evaluations(self.bound, case.estimator, jax.random.key(0), *case.arguments)

    def flops(self, case: "_Case") -> float:
        return cost.flops(moments.make_gradient(self.bound, case.estimator), jax.random.key(0), *case.arguments)


class _Case(NamedTuple):
    """An estimator, ready to be measured.

    Attributes:
      estimator: the estimator.
      add: a compiled `add(running, key, i, arguments)`, which adds the gradient with the key fold_in(key, i).
      arguments: those of the gradient after its key.
    """

    estimator: Estimator
    add: Callable
    arguments: tuple


class _Draws(NamedTuple):
    """The gradients with the keys fold_in(key, i), i < number, in equal chunks."""

    key: Array
    number: int
    chunks: int


class _Entrant(NamedTuple):
    """A measured estimator: its name and costs, its figures of every part, and some of them by chunk."""

    head: dict[str, Any]
    report: dict[str, dict[str, float]]
    by_chunk: dict[str, dict[str, np.ndarray]]


class _KnownTruth(NamedTuple):
    """The true gradient, and its origin in words."""

    source: str
    truth: Truth


def _compiled(function: Callable) -> Callable:
    """The jitted function. On a CPU, full optimization takes seconds more and saves microseconds of each call."""
    is_cpu = jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1} if is_cpu else None)


@functools.cache
def _figures_program() -> Callable:
    return _compiled(lambda draws, truth: (figures.report(draws, truth), figures.figures_by_chunk(draws)))


def _make_case(task: _Task, estimator: Estimator, key: Array, fitted: tuple[PyTree, PyTree] | None) -> _Case:
    gradient = moments.make_gradient(task.bound, estimator)

    def add(running, key, i, arguments):
        drawn = gradient(jax.random.fold_in(key, i), *arguments)
        return moments.add_gradients(running, jax.tree.map(lambda leaf: leaf[None], drawn))

    learned, counted = fitted or estimator.init(key, task.expectations[0].q, task.x)
    return _Case(estimator, _compiled(add), (task.params, task.x, learned, counted, task.x))


def _draw_moments(case: _Case, draws: _Draws) -> Moments:
    """Moments of the gradients. Python has the loop, because convolutions are slow inside a loop of XLA."""
    size = draws.number // draws.chunks
    begin = jax.jit(moments.no_moments)(case.arguments[0])
    chunks = []
    for chunk in range(draws.chunks):
        running = begin
        for i in range(chunk * size, (chunk + 1) * size):
            running = case.add(running, draws.key, i, case.arguments)
        chunks.append(jax.device_get(running))
    return moments.join_chunks(jax.tree.map(lambda *leaves: np.stack(leaves), *chunks))


def _find_truth(task: _Task, num_samples: int, reference: Estimator | None, draws: _Draws) -> _KnownTruth:
    """The sum over all states if there are few, and otherwise the mean of many gradients of the reference."""
    if reference is None:
        name, num_samples = choose_reference(task.expectations, num_samples, task.black_box)
        reference = make(name, num_samples=num_samples)
        if name == "exact":
            exact = jax.jit(moments.make_gradient(task.bound, reference))
            return _KnownTruth("exact (sum over all states)", moments.exactly(exact(None, task.params, task.x)))
        source = f"{name}, K={num_samples}"
    else:
        source = "the given reference"
    case = _make_case(task, reference, draws.key, fitted=None)
    truth = _compiled(moments.reference)(_draw_moments(case, draws))
    return _KnownTruth(f"mean of {draws.number:,} draws of {source}", truth)


def _is_unbiased(entrant: _Entrant, groups: list[str], draws: int, chunks: int, confidence: float) -> bool:
    """Whether an estimator is unbiased by its paper, and by measurement in all groups of parameters."""
    bias = (verdicts.bias_figures(entrant.report[group], draws, chunks, confidence) for group in groups)
    return not entrant.head["declared_biased"] and not any(figures["biased"] for figures in bias)


def _rows(
    group: str,
    entrants: list[_Entrant],
    is_unbiased: list[bool],
    draws: int,
    chunks: int,
    confidence: float,
    judge_by: str,
) -> list[dict[str, Any]]:
    """The rows of one group of parameters. Only an unbiased estimator is the best."""
    weights = intervals.resampling(chunks)
    rows = []
    for head, report, by_chunk in entrants:
        row = {"group": group} | head
        row |= verdicts.bias_figures(report[group], draws, chunks, confidence)
        for figure in ("variance", "snr"):
            low, high = intervals.figure_interval(figure, by_chunk[group][figure], weights, draws, confidence)
            row |= {figure: report[group][figure], f"{figure}_low": low, f"{figure}_high": high}
        if verdicts.is_exact(report[group]):
            row |= {"variance": 0.0, "variance_low": 0.0, "variance_high": 0.0}
        rows.append(row)
    variances = [verdicts.ranked_variance(report[group]) for _, report, _ in entrants]
    costs = [row[judge_by] for row in rows]
    best = verdicts.choose_best(variances, costs, is_unbiased)
    chunk_variances = [by_chunk[group]["variance"] for _, _, by_chunk in entrants]
    ratios = verdicts.compare_products(variances, chunk_variances, costs, weights, confidence)
    for i, row in enumerate(rows):
        ratio, low, high = (float(array[i, best]) for array in ratios)
        low, high = (np.nan, np.nan) if i == best else (low, high)
        row |= {"to_best": ratio, "to_best_low": low, "to_best_high": high}
        always_zero = verdicts.is_always_zero(entrants[i].report[group])
        row["verdict"] = verdicts.judge(row["variance"], row["biased"], i == best, low, high, always_zero)
    return rows
