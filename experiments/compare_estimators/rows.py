"""The rows of results.csv, layers.csv and pairs.csv, and warnings about single rows."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.common import grammar
from experiments.common.candidates import Case
from experiments.common.charts import gradients
from experiments.common.measuring import Protocol, finite_or_nan
from experiments.compare_estimators.measure_all import Result
from experiments.compare_estimators.verdicts import Entrant, Seconds, compare
from vae import diagnostics
from vae.estimators import BY_NAME

# A warning is printed if the relative standard error of a reference is larger than this.
UNSURE = 0.1


class Rows(NamedTuple):
    """The rows of the three files. `results` has a row for each result, in the order of the results."""

    results: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


def make_rows(results: list[Result], cases: list[Case], seconds: np.ndarray, protocol: Protocol) -> Rows:
    """Rows and verdicts; prints warnings.

    Args:
      results: everything that was measured.
      cases: the cases of the results, once each.
      seconds: seconds of one gradient, `[cases, rounds]`. Rounds are resampled for the intervals of variance x time.
      protocol: how the results were measured; it has the level and the replicates of the intervals.
    """
    weights = diagnostics.resampling(protocol.chunks, protocol.replicates, protocol.seed)
    times = dict(zip(cases, _resampled_medians(seconds, protocol), strict=True))
    layers: list[dict[str, Any]] = []
    entrants: list[Entrant] = []
    warnings: dict[str, None] = {}
    for result in results:
        time = times[result.case]
        low, high = np.quantile(time.replicates, [0.5 - protocol.confidence / 2, 0.5 + protocol.confidence / 2])
        row = _head(result)
        row |= {"evaluations": result.case.evaluations, "flops": result.case.flops}
        row |= {"seconds": time.median, "seconds_low": float(low), "seconds_high": float(high)}
        for part in result.figures:
            figures = _figures(result, part, row, weights, protocol)
            layers.append(_head(result) | {"part": part} | figures)
            if part in result.task.problem.params:
                row |= {f"{part}_{key}": value for key, value in figures.items()}
                warnings |= dict.fromkeys(_warnings(result, part, figures))
        entrants.append(Entrant(result, row, time))
    pairs: list[dict[str, Any]] = []
    for slot in _slots(entrants):
        for group in results[0].task.problem.params:
            pairs += compare(slot, group, weights, protocol)
    for warning in warnings:
        print(warning)
    return Rows([entrant.row for entrant in entrants], layers, pairs)


def _resampled_medians(seconds: np.ndarray, protocol: Protocol) -> list[Seconds]:
    """The median time of each case, and medians over resampled rounds.

    Medians of few resampled rounds vary too little. Their spread is therefore widened by the ratio of Student's t to
    the normal quantile, at the level that one of all pairs of cases has.
    """
    cases, rounds = seconds.shape
    picks = np.random.default_rng(0).integers(0, rounds, (protocol.replicates, rounds))
    level = 1 - (1 - protocol.confidence) / max(1, cases * (cases - 1) / 2)
    widening = diagnostics.students_t(level, rounds) / diagnostics.students_t(level, math.inf)
    widening *= math.sqrt(rounds / (rounds - 1))
    medians = [(float(np.median(times)), np.median(times[picks], axis=1)) for times in seconds]
    return [Seconds(median, median * (resampled / median) ** widening) for median, resampled in medians]


def _slots(entrants: list[Entrant]) -> list[list[Entrant]]:
    """The entrants in groups of comparable ones: those with the same point of a sweep and entry of --num_samples."""
    slots: dict[Any, list[Entrant]] = {}
    for entrant in entrants:
        point = tuple(entrant.result.task.problem.point.items())
        slots.setdefault((point, entrant.result.case.slot), []).append(entrant)
    return list(slots.values())


def _head(result: Result) -> dict[str, Any]:
    choice = grammar.choose(result.case.estimator, BY_NAME)
    return {
        "problem": result.task.problem.name,
        **result.task.problem.point,
        "estimator": result.case.estimator,
        "temperature": grammar.values(choice, BY_NAME).get("temperature", 0.0),
        "num_samples": result.case.num_samples,
        "declared_biased": BY_NAME.find(choice.name).biased,
        "truth": result.source,
    }


def _figures(
    result: Result, part: str, costs: dict[str, Any], weights: np.ndarray, protocol: Protocol
) -> dict[str, Any]:
    """All figures of one part. Figures with an interval have columns that end with `_low` and `_high`.

    `costs` is a row with the costs of one gradient.
    """
    figures = result.figures[part]
    row = {
        "size": int(figures["size"]),
        "truth_norm": figures["norm"],
        "truth_relative_stderr": figures["truth_stderr"],
        **{key: figures[key] for key in ("relative_bias", "relative_stderr")},
        **diagnostics.bias_figures(figures, protocol.draws, protocol.chunks, protocol.confidence),
    }
    for key in diagnostics.FIGURES:
        by_chunk = result.by_chunk[part][key]
        low, high = diagnostics.figure_interval(key, by_chunk, weights, protocol.draws, protocol.confidence)
        row |= {key: figures[key], f"{key}_low": finite_or_nan(low), f"{key}_high": finite_or_nan(high)}
    if diagnostics.is_exact(figures):
        row |= {"variance": 0.0, "variance_low": 0.0, "variance_high": 0.0}
    for cost in gradients.costs(protocol.judge_by):
        row |= _product(row, "variance", costs, cost)
    return row


def _product(row: dict[str, Any], figure: str, costs: dict[str, Any], cost: str) -> dict[str, float]:
    """The product of a figure with a cost, and its interval.

    The two factors are independent, so on the logarithmic scale the squares of the widths of their intervals add up.
    """
    value = row[figure] * costs[cost]
    product = {f"{figure}_x_{cost}": value}
    for end in ("_low", "_high"):
        factors = [row[f"{figure}{end}"] / row[figure] if row[figure] else 1.0]
        factors += [costs[f"{cost}{end}"] / costs[cost]] if f"{cost}{end}" in costs else []
        width = math.hypot(*(math.log(factor) for factor in factors if factor > 0))
        product[f"{figure}_x_{cost}{end}"] = value * math.exp(-width if end == "_low" else width)
    return product


def _warnings(result: Result, part: str, figures: dict[str, Any]) -> list[str]:
    """Warnings about a noisy reference, and about gradients that are not finite or always zero."""
    warnings = []
    where = "".join(f" at {key}={value:g}" for key, value in result.task.problem.point.items())
    error = figures["truth_relative_stderr"]
    if not error <= UNSURE:
        uncertainty = "more than its length" if math.isnan(error) else f"{100 * error:.0f} %"
        warnings.append(
            f"the reference for {part} ({result.source}) is itself uncertain by {uncertainty}, which lowers cosine and"
            " DSNR; raise --reference_draws, or give --reference an unbiased estimator with less variance"
        )
    if not math.isfinite(figures["variance"]):  # for example, if the cost has no derivative between the states
        warnings.append(
            f"{result.case.estimator} has no verdict: some draws of its gradient of {part}{where} are not finite"
        )
    if diagnostics.is_always_zero(result.figures[part]):
        warnings.append(f"{result.case.estimator} has no verdict: every draw of its gradient of {part}{where} is zero")
    return warnings
