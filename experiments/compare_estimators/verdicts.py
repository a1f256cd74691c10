"""What the laboratory says of its measurements: rows for CSV files, verdicts on pairs, the cells of its tables."""

import math
from typing import Any

import numpy as np

from experiments.common.candidates import Case
from experiments.common.options import entry, temperature_of
from experiments.common.tables import number, plus_minus, with_interval
from experiments.compare_estimators.laboratory import Found, finite
from vae import diagnostics

# Relative standard error of a reference above which it is said.
UNSURE = 0.1


def tabulate(found: list[Found], cases: list[Case], seconds: np.ndarray, confidence: float):
    """Rows of results.csv, layers.csv and pairs.csv.

    `seconds` `[cases, rounds]` of one gradient; medians are resampled over rounds for the intervals of variance x time.
    """
    replicates = len(next(iter(found[0].replicates.values()))["variance"])
    picks = np.random.default_rng(0).integers(0, seconds.shape[1], (replicates, seconds.shape[1]))
    clocks = {case: np.median(seconds[i][picks], axis=1) for i, case in enumerate(cases)}
    times = {case: float(np.median(seconds[i])) for i, case in enumerate(cases)}
    rows, layers, pairs, warnings = [], [], [], {}
    for one in found:
        row = _head(one) | {"evaluations": one.case.evaluations, "flops": one.case.flops, "seconds": times[one.case]}
        low, high = np.quantile(clocks[one.case], [0.5 - confidence / 2, 0.5 + confidence / 2])
        row |= {"seconds_low": float(low), "seconds_high": float(high)}
        for part in one.figures:
            figures = _part(one, part, times[one.case], clocks[one.case], confidence)
            layers.append(_head(one) | {"part": part} | figures)
            if part in one.problem.params:
                row |= {f"{part}_{key}": value for key, value in figures.items()}
                warnings |= _unsure(figures, part, one) | _not_finite(figures, part, one)
        rows.append(row)
    for index in _slots(found):
        for group in found[0].problem.params:
            pairs += _judge(index, group, found, rows, times, clocks, confidence)
    print("".join(warnings), end="")
    return rows, layers, pairs


def _unsure(figures: dict[str, Any], part: str, one: Found) -> dict[str, None]:
    """A sentence where the reference's own noise blurs what is held against it."""
    error = figures["truth_relative_stderr"]
    if error <= UNSURE:
        return {}
    much = "more than its length" if math.isnan(error) else f"{100 * error:.0f} %"
    return {
        f"the reference for {part} ({one.truth}) is itself uncertain by {much}, which lowers cosine and"
        " DSNR: raise --reference_draws, or name a steadier unbiased estimator by --reference\n": None
    }


def _not_finite(figures: dict[str, Any], part: str, one: Found) -> dict[str, None]:
    """A sentence where some gradient is none, as of a cost that has no derivative where a relaxation looks."""
    if math.isfinite(figures["variance"]):
        return {}
    where = "".join(f" at {key}={value:g}" for key, value in one.problem.point.items())
    return {f"{one.case.name}: its gradient of {part}{where} is not finite in every draw, so nothing is judged\n": None}


def _head(one: Found) -> dict[str, Any]:
    head = {"problem": one.problem.name, **one.problem.point, "estimator": one.case.name}
    head |= {"temperature": temperature_of(one.case.name, one.problem.temperature)}
    head |= {"num_samples": one.case.num_samples, "declared_biased": entry(one.case.name).biased}
    return head | {"truth": one.truth}


def _part(one: Found, part: str, seconds: float, clock: np.ndarray, confidence: float) -> dict[str, Any]:
    """All figures of one part, with `_low` and `_high` for those that have an interval."""
    figures, resampled = one.figures[part], one.replicates[part]
    row = {
        "size": int(figures["size"]),
        "truth_norm": figures["norm"],
        "truth_relative_stderr": figures["truth_stderr"],
    }
    row |= {"bias": figures["scale"] - 1, "bias_stderr": figures["scale_stderr"]}
    reach = diagnostics.students_t(confidence, one.chunks) * row["bias_stderr"]
    row |= {"bias_low": row["bias"] - reach, "bias_high": row["bias"] + reach}
    row |= {key: figures[key] for key in ("max_abs_z", "relative_bias", "relative_stderr", "deviation")}
    row |= {"critical_z": diagnostics.critical_z(figures["size"])}
    row |= {"biased": is_biased(row, one.chunks)}
    measured = {key: (figures[key], resampled[key]) for key in ("variance", "snr", "dsnr", "cosine")}
    variance, replicates = measured["variance"]
    measured |= {"variance_x_flops": (variance * one.case.flops, replicates * one.case.flops)}
    measured |= {"variance_x_seconds": (variance * seconds, replicates * clock)}
    for key, (value, samples) in measured.items():
        low, high = diagnostics.interval(samples, one.chunks, confidence)
        row |= {key: value, f"{key}_low": finite(low), f"{key}_high": finite(high)}
    return row


def is_biased(row: dict[str, Any], chunks: int) -> bool:
    """Whether the deviation is more than chance: in the worst coordinate and as a whole, or along the truth (|z| of 5
    or more, for few chunks of what Student's t exceeds in 0.01 %, where the deviation is more than rounding).

    As a whole is twice the length that chance gives it. A coordinate alone proves nothing: what depends on rare events
    has a mean that is not normal, and a standard error that is too small until they were seen.
    """
    much = max(5, diagnostics.students_t(1 - 1e-4, chunks))
    along = abs(row["bias"]) > max(much * row["bias_stderr"], 10 * diagnostics.ROUNDING)  # False where it is NaN
    whole = row["deviation"] > 2
    return bool(row["max_abs_z"] > row["critical_z"] and whole or along)


def _slots(found: list[Found]) -> list[list[int]]:
    """Indices of what is compared with each other: one point, one of --num_samples."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(found):
        groups.setdefault((tuple(one.problem.point.items()), one.case.slot), []).append(i)
    return list(groups.values())


def _judge(index, group, found, rows, times, clocks, confidence) -> list[dict[str, Any]]:
    """Pairs of one slot, and in its rows the ratios to the best and the verdict."""

    def cost(i, key):
        if key == "variance":
            return 1.0, 1.0
        case = found[i].case
        return (case.flops, case.flops) if key == "variance_x_flops" else (times[case], clocks[case])

    def ratio(i, j, key):
        """Estimate, low, high of figure `key` of i over that of j."""
        (cost_i, costs_i), (cost_j, costs_j) = cost(i, key), cost(j, key)
        a, b = (found[n].replicates[group]["variance"].astype(np.float64) for n in (i, j))
        value, other = found[i].figures[group]["variance"] * cost_i, found[j].figures[group]["variance"] * cost_j
        if other == 0 or value == 0:
            nothing = 1.0 if value == other else math.inf if other == 0 else 0.0
            return nothing, nothing, nothing
        low, high = diagnostics.interval((a * costs_i) / (b * costs_j), found[i].chunks, confidence)
        return value / other, low, high

    finite = [i for i in index if math.isfinite(rows[i][f"{group}_variance"])] or index
    sound = [i for i in finite if not rows[i][f"{group}_biased"] and not rows[i]["declared_biased"]] or finite
    sound = [i for i in sound if found[i].figures[group]["variance"] > 0] or sound
    best = min(sound, key=lambda i: rows[i][f"{group}_variance_x_flops"])
    pairs = []
    for i in index:
        for key in ("variance_x_flops", "variance_x_seconds"):
            names = [f"{group}_{key}_to_best{end}" for end in ("", "_low", "_high")]
            rows[i] |= dict(zip(names, ratio(i, best, key) if i != best else (1.0, math.nan, math.nan), strict=True))
        _, low, high = ratio(i, best, "variance_x_flops")
        verdict = "best" if i == best else "better" if high < 1 else "worse" if low > 1 else "not told from best"
        if not math.isfinite(rows[i][f"{group}_variance"]):
            verdict = "NOT FINITE"
        rows[i][f"{group}_verdict"] = f"BIASED, {verdict}" if rows[i][f"{group}_biased"] else verdict
        for j in index:
            for key in ("variance", "variance_x_flops", "variance_x_seconds") if j > i else ():
                value, low, high = ratio(i, j, key)
                told = "first is better" if high < 1 else "second is better" if low > 1 else "not distinguished"
                pair = {"group": group, "figure": key, "first": rows[i]["estimator"], "second": rows[j]["estimator"]}
                samples = {"num_samples_first": rows[i]["num_samples"], "num_samples_second": rows[j]["num_samples"]}
                numbers = {"ratio": value, "ratio_low": low, "ratio_high": high, "verdict": told}
                pairs.append({**found[i].problem.point, **pair, **samples, **numbers})
    return pairs


def cells(rows: list[dict[str, Any]], group: str) -> list[list[str]]:
    """The header and a line for each row, of what was measured on one group of parameters."""
    of = lambda row, key: row.get(f"{group}_{key}", math.nan)
    unit, name = _time_unit([row["seconds"] for row in rows])
    header = ["estimator", "temperature", "K", "evaluations", "FLOP", f"time ({name})"]
    header += ["bias along truth (%)", "max |z| (critical)"]
    header += ["variance", "SNR", "DSNR", "cosine", "variance x FLOP", "variance x time", "verdict"]
    table = [header]
    for row in rows:
        mark = " *" if row["declared_biased"] else ""
        line = [row["estimator"] + mark, number(row["temperature"]) if row["temperature"] else "-"]
        line += [str(row["num_samples"]), str(row["evaluations"]), number(row["flops"])]
        line += [number(row["seconds"] * unit)]
        line += [plus_minus(100 * of(row, "bias"), 100 * of(row, "bias_stderr"))]
        line += [f"{number(of(row, 'max_abs_z'), 2)} ({number(of(row, 'critical_z'), 2)})"]
        line += [with_interval(row, f"{group}_variance")]
        line += [number(of(row, key)) for key in ("snr", "dsnr", "cosine")]
        line += [with_interval(row, f"{group}_{key}_to_best") for key in ("variance_x_flops", "variance_x_seconds")]
        table.append([*line, str(of(row, "verdict"))])
    empty = [i for i in range(len(header)) if all(line[i] == "-" for line in table[1:])]
    return [[cell for i, cell in enumerate(line) if i not in empty] for line in table]


def _time_unit(seconds: list[float]) -> tuple[float, str]:
    typical = sorted(seconds)[len(seconds) // 2]
    return next((s, n) for limit, s, n in ((1, 1, "s"), (1e-3, 1e3, "ms"), (0, 1e6, "us")) if typical >= limit)
