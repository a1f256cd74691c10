"""Learning curves of several seeds: which seeds and steps are averaged, and why a mean cannot be seen.

A run is a dict with

    "rows"      the evaluations, dicts with "step", "elbo_nats" and perhaps "examples" and "split"
    "seconds"   the seconds of training at each evaluation, or None
    "status"    "done", "diverged", or None while the run trains
    "step_evaluations"  the evaluations of f for one image in a step, if they are known

Bounds are in nats.
"""

import math
from typing import Any

import numpy as np

CLOCKS = ("step", "examples", "evaluations", "seconds")

Run = dict[str, Any]


def curve(run: Run) -> np.ndarray:
    """The evaluations with a finite ELBO in the order of their steps, `[evaluations, 5]`.

    The columns are the four CLOCKS, NaN where a clock is unknown, and the ELBO.
    """
    return np.array(sorted(_by_step(run).values()), dtype=float).reshape(-1, len(CLOCKS) + 1)


def curves_to_average(runs: list[Run]) -> np.ndarray:
    """The curves of the seeds whose mean is drawn, at the steps that all these seeds have, `[seeds, steps, 5]`.

    The finished seeds are averaged. If there are none, the seeds in training are averaged, and if there are none of
    these either, the seeds that diverged. So a seed that diverged early does not cut the mean of the others short.
    """
    for status in ("done", None, "diverged"):
        if seeds := [_by_step(run) for run in runs if run.get("status") == status]:
            common = sorted(set.intersection(*map(set, seeds)))
            curves = [[seed[step] for step in common] for seed in seeds]
            return np.array(curves, dtype=float).reshape(len(seeds), len(common), len(CLOCKS) + 1)
    return np.zeros((0, 0, len(CLOCKS) + 1))


def reason_unseen(runs: list[Run], limits: tuple[float, float]) -> str:
    """The reason why no part of the runs' mean is within the limits, for its label; empty if some part is."""
    elbo = curves_to_average(runs)[..., -1].T  # [steps, seeds]
    if not len(elbo):
        return " (no step in common)" if any(map(_by_step, runs)) else " (not finite)"
    low, high = limits
    mean = elbo.mean(axis=1)
    return "" if np.any((mean >= low) & (mean <= high)) else " (off scale)"


def _by_step(run: Run) -> dict[int, tuple[float, ...]]:
    """The clocks and the ELBO of each step with a finite ELBO. If a step was evaluated twice, the last row counts."""
    rows = run["rows"]
    seconds = run.get("seconds")
    seconds = [math.nan] * len(rows) if seconds is None else seconds
    cost = run.get("step_evaluations", math.nan)
    by_step = {}
    for row, second in zip(rows, seconds, strict=True):
        if math.isfinite(row["elbo_nats"]):
            examples = row.get("examples", math.nan)
            by_step[row["step"]] = (row["step"], examples, examples * cost, second, row["elbo_nats"])
    return by_step
