"""What was obtained here of a published number: readers of the folder of results that a script left.

Each makes `read(path)`, a dict of "obtained", "K", "data", "precision", "machine", "minutes" and "commit", and of
"seeds" where there are some: those of each setting. It raises ValueError where the script is not through. Minutes are
wall time of all that a row is made of: of trained models' epochs, and of the whole command elsewhere.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import tables


def trained(figure: str, unit: str = "nats", sign: int = 1, units: bool = False, **chosen: Any) -> Callable:
    """Mean and standard error of a test figure over the seeds of the runs with the settings `chosen`; with `units`,
    the active units of each stochastic layer."""

    def read(path: Path) -> dict[str, Any]:
        from experiments.common import results

        runs = [_evaluated_best(run) for run in _finished(path, figure, chosen)]
        values = [sign * run.row[figure] for run in runs]
        mean, error = results.mean_and_error(values)
        obtained = f"{mean:.2f}" + (f" ± {error:.2f}" if len(values) > 1 else "") + f" {unit}"
        if units:
            obtained += f", {results.units([run.row for run in runs])} units"
        seeds = _seeds(path, runs)
        return {"obtained": f"{obtained} ({_number_of_seeds(seeds)})", "seeds": seeds, **_of_runs(runs, figure)}

    return read


def _evaluated_best(run: Any) -> Any:
    """The run with the figures of `experiments.evaluate` in place of its own, where they are of its end and of more
    samples."""
    of_its_end = [row for row in run.evaluations if row["epoch"] == run.row["epochs"]]
    return run._replace(row=run.row | max([run.row, *of_its_end], key=lambda row: row["eval_samples"]))


def order(name: str, figure: str, values: tuple[str, ...], within: str | None = None) -> Callable:
    """All settings by a figure, best first; `values` of them are there at the least. `within`: another setting that
    differs, of which each has its best."""

    def read(path: Path) -> dict[str, Any]:
        from experiments.common import results

        runs = _finished(path, figure, {})
        if missing := [value for value in values if all(run.row[name] != value for run in runs)]:
            raise ValueError(f"{path} has no run of {', '.join(missing)}; let the script go on")
        names = [name, within] if within else [name]
        groups: dict[tuple, list[Any]] = {}
        for run in runs:
            groups.setdefault(tuple(run.row[each] for each in names), []).append(run)
        seeds = min(_seeds(path, group) for group in groups.values())
        rows = results.aggregate([run.row for run in runs], names)
        rows.sort(key=lambda row: results.least_first(-row[figure]))
        best: dict[Any, dict[str, Any]] = {}
        for row in rows:
            best.setdefault(row[name], row)
        error = lambda row: f" ± {row[f'{figure}_se']:.2f}" if seeds > 1 else ""
        at = lambda row: f" ({within} {row[within]})" if within else ""
        obtained = ", ".join(f"{row[name]}{at(row)} {row[figure]:.2f}{error(row)}" for row in best.values())
        obtained = f"{obtained} nats ({_number_of_seeds(seeds)})"
        return {"obtained": obtained, "seeds": seeds, **_of_runs(runs, figure)}

    return read


def _finished(path: Path, figure: str, chosen: dict[str, Any]) -> list[Any]:
    """The runs with these settings, all of them through and with this figure."""
    from experiments.common import workdirs

    runs = workdirs.read([path]).runs
    runs = [run for run in runs if all(str(run.row[key]) == str(value) for key, value in chosen.items())]
    done = [run for run in runs if run.row.get("status") == "done"]
    if len(done) < max(1, len(runs)):
        diverged = sum(run.row.get("status") == "diverged" for run in runs)
        of = " with " + ", ".join(f"{key}={value}" for key, value in chosen.items()) if chosen else ""
        said = f", and {diverged} diverged" if diverged else ""
        raise ValueError(f"{path} has {len(done)} finished of {len(runs)} runs{of}{said}; let the script go on")
    if not all(figure in run.row for run in done):
        raise ValueError(f"{path} has a run without {figure}; run the script again")
    return done


def _seeds(path: Path, runs: list[Any]) -> int:
    """How many, of runs that differ in nothing else."""
    from experiments.common import results

    if others := results.varying([run.row for run in runs]):
        raise ValueError(f"{path} has runs that differ in {', '.join(others)}; move all but one aside")
    return len({run.row["seed"] for run in runs})


def _number_of_seeds(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _of_runs(runs: list[Any], figure: str) -> dict[str, str]:
    """The columns that say what the runs were."""
    from experiments.common import assess

    each = lambda of: ", ".join(dict.fromkeys(str(of(run)) for run in runs))
    weighted = "nll" in figure or "bits" in figure
    evaluated = each(lambda run: run.row["eval_samples"]) if weighted else assess.ELBO_SAMPLES
    # Runs that trained together have one clock, which is counted once.
    clocks = {run.seconds[-1] if run.seconds else math.nan for run in runs}
    made = [_made(run.config, sum(clocks)) for run in runs]
    return {
        "K": f"{each(lambda run: run.row['num_samples'])}; evaluated with {evaluated}",
        "data": each(lambda run: f"{run.row['dataset']}, {run.row['binarization']}"),
        **{name: ", ".join(dict.fromkeys(one[name] for one in made)) for name in made[0]},
    }


def slope(group: str, estimator: str) -> Callable:
    """The slope of log SNR against log K, by least squares, with the standard error of the SNRs' intervals."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        log = lambda key: [math.log(row[key]) for row in rows]
        x, y, low, high = map(log, ("num_samples", *(f"{group}_snr{end}" for end in ("", "_low", "_high"))))
        reach = 2 * statistics.NormalDist().inv_cdf(0.5 + laboratory.config["settings"]["confidence"] / 2)
        errors = [(b - a) / reach for a, b in zip(low, high, strict=True)]
        centre = statistics.fmean(x)
        weights = [(each - centre) / sum((other - centre) ** 2 for other in x) for each in x]
        error = math.hypot(*(weight * each for weight, each in zip(weights, errors, strict=True)))
        return _measured(laboratory, tables.plus_minus(statistics.linear_regression(x, y).slope, error), rows)

    return read


def variance(group: str, estimator: str, over: str | None = None, point: float | None = None) -> Callable:
    """The variance of a gradient with its interval at one point, the last by default; or its ratio to another's."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        at = (lambda row: row[laboratory.point]) if laboratory.point else lambda row: 0
        [row] = [row for row in rows if at(row) == (max(map(at, rows)) if point is None else point)]
        if over is None:
            ends = [tables.number(row[f"{group}_variance{end}"], 4) for end in ("", "_low", "_high")]
            return _measured(laboratory, f"{ends[0]} [{ends[1]}, {ends[2]}]", [row])
        [pair] = [
            pair
            for pair in laboratory.pairs()
            if (pair["group"], pair["figure"]) == (group, "variance")
            and {pair["first"], pair["second"]} == {over, estimator}
            and at(pair) == at(row)
        ]
        ratio, *ends = (pair[f"ratio{end}"] for end in ("", "_low", "_high"))
        if pair["first"] == over:
            ratio, *ends = 1 / ratio, 1 / ends[1], 1 / ends[0]
        low, high = map(tables.number, ends)
        return _measured(laboratory, f"{tables.number(ratio)} [{low}, {high}] of {over}'s", [row])

    return read


def distance(group: str, estimator: str) -> Callable:
    """How far the mean gradient is from the exact one, over the exact one's length."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        row = rows[-1]
        off, chance = row[f"{group}_relative_bias"], row[f"{group}_relative_stderr"]
        return _measured(laboratory, f"{off:.2f}, of which chance makes up to {chance:.2f}", [row])

    return read


def toy(point: str, figure: str, estimators: tuple[str, ...]) -> Callable:
    """The final loss or the variance at the start of some estimators at a point of a toy problem, least first."""

    def read(path: Path) -> dict[str, Any]:
        from experiments.common import results, workdirs
        from vae.estimators import BY_NAME

        [found] = workdirs.read([path]).toys
        rows = [row for row in found.rows if row["point"] == point and row["estimator"] in estimators]
        if missing := set(estimators) - {row["estimator"] for row in rows}:
            raise ValueError(f"{path} has no row of {', '.join(sorted(missing))}; run the script again")
        rows.sort(key=lambda row: results.least_first(row[figure]))
        error = lambda row: row.get(f"{figure}_stderr", math.nan)
        precise = lambda row: tables.plus_minus(row[figure], error(row))
        shown = lambda row: precise(row) if error(row) > 0 else tables.number(row[figure], 5)
        chosen = found.config["settings"]
        listed = ", ".join(f"{row['estimator']} {shown(row)}" for row in rows)
        samples = sorted({max(chosen["num_samples"], BY_NAME[row["estimator"]].min_samples) for row in rows})
        length = f", {chosen['steps']} steps" if figure == "final_loss" else ""
        return {
            "obtained": f"{listed} ({_number_of_seeds(chosen['seeds'])})",
            "K": ", ".join(map(str, samples)),
            "data": f"{chosen['toy']} toy{length}",
            "seeds": chosen["seeds"],
            **_made(found.config, found.config["seconds"]),
        }

    return read


def _laboratory(path: Path, estimator: str):
    from experiments.common import workdirs

    [laboratory] = workdirs.read([path]).laboratories
    rows = [row for row in laboratory.rows if row["estimator"] == estimator]
    if not rows:
        raise ValueError(f"{path} has no row of {estimator}; run the script again")
    return laboratory, rows


def _measured(laboratory, obtained: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    samples = [row["num_samples"] for row in rows]
    draws = laboratory.config["settings"]["draws"]
    return {
        "obtained": obtained,
        "K": f"{samples[0]} to {samples[-1]}" if len(set(samples)) > 1 else str(samples[0]),
        "data": f"{rows[0]['problem']}, {draws} gradients",
        **_made(laboratory.config, laboratory.config.get("seconds", math.nan)),
    }


def _made(config: dict[str, Any], seconds: float) -> dict[str, str]:
    """The columns that say in what precision, where, in what time and from what code."""
    backend, *platform = [part for part in config["platform"].split(", ") if part != "x86_64"]
    commits = dict.fromkeys(one.get("git_commit") or "-" for one in (config, *config.get("continued", [])))
    return {
        "precision": _precision(config["settings"], backend),
        "machine": ", ".join([config["device"].removeprefix("1 x "), *platform]),
        "minutes": "-" if math.isnan(seconds) else tables.number(seconds / 60, 2),
        "commit": ", ".join(commit[:7] + "+" * commit.endswith("+") for commit in commits),
    }


def _precision(settings: dict[str, Any], backend: str) -> str:
    """That of the networks' layers, and of products of matrices where it is another."""
    layers, products = settings.get("compute_dtype", "float32"), settings.get("matmul_precision", "default")
    own = products == layers or products == "default" and (backend == "cpu" or layers != "float32")
    return layers if own else f"{layers}, {products} products"
