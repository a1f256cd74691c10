"""Learning curves of the seeds of a setting: what of them is averaged, and what of them an axis shows.

A run is a dict with "rows", evaluations with "step" and "elbo_nats" and perhaps "examples", with "seconds" of training
at each of them, or None, and perhaps with "status", "done" or "diverged". Bounds are in nats.
"""

import math

import numpy as np

CLOCKS = ("step", "examples", "seconds")


def line(run):
    """[evaluations, 4], by step: places on the CLOCKS, NaN where one is not known, and the ELBO, where it is finite."""
    return np.array(sorted(_by_step(run).values()), dtype=float).reshape(-1, 4)


def together(runs):
    """[seeds, steps, 4]: the lines of the seeds whose mean is drawn, at the steps that all of them have.

    These are the finished seeds; where there are none, those in training; else those that diverged. So one that
    diverged does not cut the mean of the others short.
    """
    for status in ("done", None, "diverged"):
        if seeds := [_by_step(run) for run in runs if run.get("status") == status]:
            common = sorted(set.intersection(*map(set, seeds)))
            lines = [[seed[step] for step in common] for seed in seeds]
            return np.array(lines, dtype=float).reshape(len(seeds), len(common), 4)
    return np.zeros((0, 0, 4))


def limits(values, robust=True):
    """(low, high) of an axis that shows lines of values, None if none is finite; if `robust`, set by their last 80 %
    less far outliers: the start may go off."""
    values = [line[np.isfinite(line)] for line in values]
    every = np.concatenate([*values, []])
    if not every.size:
        return None
    low, high = every.min(), every.max()
    if robust:
        late = np.concatenate([line[len(line) // 5 + (len(line) > 2) :] for line in values])
        lower, upper = np.quantile(late, (0.25, 0.75))
        inside = late[(late >= lower - 3 * (upper - lower)) & (late <= upper + 3 * (upper - lower))]
        slack = 0.5 * np.ptp(inside)  # so much of the start is still seen
        low, high = max(low, inside.min() - slack), min(high, inside.max() + slack)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def unseen(runs, limits):
    """What is said behind the name of runs whose mean is not within the limits: nothing where some of it is."""
    elbo = together(runs)[..., -1].T  # [steps, seeds]
    if not len(elbo):
        return " (no step in common)" if any(map(_by_step, runs)) else " (not finite)"
    low, high = limits
    mean = elbo.mean(axis=1)
    return "" if np.any((mean >= low) & (mean <= high)) else " (off scale)"


def _by_step(run):
    """{step: [4]} where the ELBO is finite; of a step evaluated twice the last counts."""
    rows, seconds = run["rows"], run.get("seconds")
    seconds = [math.nan] * len(rows) if seconds is None else seconds
    return {
        row["step"]: (row["step"], row.get("examples", math.nan), second, row["elbo_nats"])
        for row, second in zip(rows, seconds, strict=True)
        if math.isfinite(row["elbo_nats"])
    }
