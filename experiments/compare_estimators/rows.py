"""The rows of results.csv, layers.csv and pairs.csv, and warnings about single rows."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.common import options
from experiments.common.candidates import Case
from experiments.common.measuring import finite_or_nan
from experiments.compare_estimators.measure_all import Result
from experiments.compare_estimators.verdicts import Entrant, Factor, is_biased, judge
from vae import diagnostics
from vae.estimators import BY_NAME

# Relative standard error of a reference above which a warning is printed.
UNSURE = 0.1


class Rows(NamedTuple):
    """The rows of the three files. `results` has a row for each result, in the order of the results."""

    results: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


def make_rows(results: list[Result], cases: list[Case], seconds: np.ndarray, confidence: float) -> Rows:
    """Rows and verdicts; prints warnings.

    Args:
      results: everything that was measured.
      cases: the cases of the results, once each.
      seconds: seconds of one gradient, `[cases, rounds]`. Rounds are resampled for the intervals of variance x time.
      confidence: level of every interval.
    """
    replicates = len(next(iter(results[0].replicates.values()))["variance"])
    times = dict(zip(cases, _resampled_medians(seconds, replicates), strict=True))
    layers: list[dict[str, Any]] = []
    entrants: list[Entrant] = []
    warnings: dict[str, None] = {}
    for result in results:
        time = times[result.case]
        low, high = np.quantile(time.replicates, [0.5 - confidence / 2, 0.5 + confidence / 2])
        row = _head(result)
        row |= {"evaluations": result.case.evaluations, "flops": result.case.flops}
        row |= {"seconds": time.value, "seconds_low": float(low), "seconds_high": float(high)}
        for part in result.figures:
            figures = _figures(result, part, time, confidence)
            layers.append(_head(result) | {"part": part} | figures)
            if part in result.task.problem.params:
                row |= {f"{part}_{key}": value for key, value in figures.items()}
                warnings |= dict.fromkeys(_warnings(result, part, figures))
        entrants.append(Entrant(result, row, time))
    pairs: list[dict[str, Any]] = []
    for slot in _slots(entrants):
        for group in results[0].task.problem.params:
            pairs += judge(slot, group, confidence)
    for warning in warnings:
        print(warning)
    return Rows([entrant.row for entrant in entrants], layers, pairs)


def _resampled_medians(seconds: np.ndarray, replicates: int) -> list[Factor]:
    """The median time of each case, and medians over resampled rounds."""
    rounds = seconds.shape[1]
    picks = np.random.default_rng(0).integers(0, rounds, (replicates, rounds))
    return [Factor(float(np.median(times)), np.median(times[picks], axis=1)) for times in seconds]


def _slots(entrants: list[Entrant]) -> list[list[Entrant]]:
    """The entrants in groups that are compared: the same point of a sweep and the same entry of --num_samples."""
    slots: dict[Any, list[Entrant]] = {}
    for entrant in entrants:
        point = tuple(entrant.result.task.problem.point.items())
        slots.setdefault((point, entrant.result.case.slot), []).append(entrant)
    return list(slots.values())


def _head(result: Result) -> dict[str, Any]:
    choice = options.choose(result.case.estimator, options.ESTIMATORS)
    return {
        "problem": result.task.problem.name,
        **result.task.problem.point,
        "estimator": result.case.estimator,
        "temperature": options.ESTIMATORS.values(choice).get("temperature", 0.0),
        "num_samples": result.case.num_samples,
        "declared_biased": BY_NAME[choice.name].biased,
        "truth": result.source,
    }


def _figures(result: Result, part: str, seconds: Factor, confidence: float) -> dict[str, Any]:
    """All figures of one part. Figures with an interval have columns that end with `_low` and `_high`."""
    figures = result.figures[part]
    bias = figures["scale"] - 1
    reach = diagnostics.students_t(confidence, result.chunks) * figures["scale_stderr"]
    row = {
        "size": int(figures["size"]),
        "truth_norm": figures["norm"],
        "truth_relative_stderr": figures["truth_stderr"],
        "bias": bias,
        "bias_stderr": figures["scale_stderr"],
        "bias_low": bias - reach,
        "bias_high": bias + reach,
        **{key: figures[key] for key in ("max_abs_z", "relative_bias", "relative_stderr", "deviation")},
        "critical_z": diagnostics.critical_z(figures["size"]),
    }
    row["biased"] = is_biased(row, result.chunks)
    for key, (value, replicates) in _resampled(result, part, seconds).items():
        low, high = diagnostics.interval(replicates, result.chunks, confidence)
        row |= {key: value, f"{key}_low": finite_or_nan(low), f"{key}_high": finite_or_nan(high)}
    return row


def _resampled(result: Result, part: str, seconds: Factor) -> dict[str, tuple[float, np.ndarray]]:
    """The figures that have bootstrap replicates, each with its replicates."""
    figures = {key: (result.figures[part][key], result.replicates[part][key]) for key in diagnostics.FIGURES}
    variance, replicates = figures["variance"]
    flops = result.case.flops
    figures["variance_x_flops"] = (variance * flops, replicates * flops)
    figures["variance_x_seconds"] = (variance * seconds.value, replicates * seconds.replicates)
    return figures


def _warnings(result: Result, part: str, figures: dict[str, Any]) -> list[str]:
    """Warnings about a noisy reference, and about gradients that are not finite."""
    warnings = []
    error = figures["truth_relative_stderr"]
    if not error <= UNSURE:
        uncertainty = "more than its length" if math.isnan(error) else f"{100 * error:.0f} %"
        warnings.append(
            f"the reference for {part} ({result.source}) is itself uncertain by {uncertainty}, which lowers cosine and"
            " DSNR: raise --reference_draws, or name a steadier unbiased estimator by --reference"
        )
    if not math.isfinite(figures["variance"]):  # for example, the cost has no derivative between the states
        where = "".join(f" at {key}={value:g}" for key, value in result.task.problem.point.items())
        warnings.append(
            f"{result.case.estimator}: its gradient of {part}{where} is not finite in every draw, so nothing is judged"
        )
    return warnings
