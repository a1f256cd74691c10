"""Reads the folders of results that scripts leave.

Each public function except `provenance_columns` makes a reader. A reader `read(path)` returns a dict with the columns
"obtained", "K", "data", "precision", "machine", "minutes" and "commit" of published.csv; for results of several seeds
it adds "seeds". It raises ValueError if the script has not finished. The minutes are the wall-clock time of the epochs
of all models behind the row, or of the whole command if no model was trained.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import assess, provenance, results, tables, workdirs
from experiments.common.workdirs import Laboratory, Run
from vae import diagnostics
from vae.estimators import BY_NAME

Reader = Callable[[Path], dict[str, Any]]


def figure_over_seeds(figure: str, unit: str = "nats", sign: int = 1, units: bool = False, **settings: Any) -> Reader:
    """Mean and standard error over seeds of a test figure of the runs with these settings.

    Args:
      units: Whether the text also gives the number of active units of each stochastic layer.
    """

    def read(path: Path) -> dict[str, Any]:
        runs = [_with_best_evaluation(run) for run in _finished_runs(path, figure, settings)]
        values = [sign * run.row[figure] for run in runs]
        mean, error = results.mean_and_error(values)
        obtained = f"{tables.with_error(mean, error, digits=2)} {unit}"
        if units:
            obtained += f", {results.units([run.row for run in runs])} units"
        seeds = _number_of_seeds(path, runs)
        return {"obtained": f"{obtained} ({_in_words(seeds)})", "seeds": seeds, **_run_columns(runs, figure)}

    return read


def inside(folder: str, read: Reader) -> Reader:
    """Reads a folder inside the one that the script left."""
    return lambda path: read(path / folder)


def ranking(name: str, figure: str, required: tuple[str, ...]) -> Reader:
    """The values of the setting `name`, ordered by a figure, the largest first.

    A value that was tried with several options, such as reinmax:temperature=0.5 and reinmax:temperature=1.3, is listed
    once, with its best options. The reader raises ValueError if a value in `required` was not tried.
    """

    def read(path: Path) -> dict[str, Any]:
        runs = _finished_runs(path, figure, {})
        tried = {_without_options(run.row[name]) for run in runs}
        if missing := [value for value in required if value not in tried]:
            raise ValueError(f"{path} has no run of {', '.join(missing)}; run the script again to finish it")
        groups: dict[str, list[Run]] = {}
        for run in runs:
            groups.setdefault(run.row[name], []).append(run)
        seeds = min(_number_of_seeds(path, group) for group in groups.values())
        rows = results.aggregate([run.row for run in runs], [name])
        rows.sort(key=lambda row: results.least_first(-row[figure]))
        best: dict[str, dict[str, Any]] = {}
        for row in rows:
            best.setdefault(_without_options(row[name]), row)
        error = lambda row: f" ± {row[f'{figure}_se']:.2f}" if seeds > 1 else ""
        obtained = ", ".join(f"{row[name]} {row[figure]:.2f}{error(row)}" for row in best.values())
        return {"obtained": f"{obtained} nats ({_in_words(seeds)})", "seeds": seeds, **_run_columns(runs, figure)}

    return read


def slope(group: str, estimator: str) -> Reader:
    """The slope of log SNR against log K, by least squares. The error of the slope follows from the SNRs' intervals."""

    def read(path: Path) -> dict[str, Any]:
        laboratory, rows = _laboratory(path, estimator)
        log = lambda key: [math.log(row[key]) for row in rows]
        log_samples = log("num_samples")
        log_snr = log(f"{group}_snr")
        settings = laboratory.config["settings"]
        width = 2 * diagnostics.students_t(settings["confidence"], settings.get("chunks", math.inf))
        # The low end of an SNR that may be zero has no logarithm; the distance to the high end is then taken twice.
        lows = [row[f"{group}_snr_low"] or row[f"{group}_snr"] ** 2 / row[f"{group}_snr_high"] for row in rows]
        ends = zip(map(math.log, lows), log(f"{group}_snr_high"), strict=True)
        errors = [(high - low) / width for low, high in ends]
        centre = statistics.fmean(log_samples)
        spread = sum((x - centre) ** 2 for x in log_samples)
        error = math.hypot(*((x - centre) / spread * each for x, each in zip(log_samples, errors, strict=True)))
        obtained = tables.plus_minus(statistics.linear_regression(log_samples, log_snr).slope, error)
        return {"obtained": obtained, **_laboratory_columns(laboratory, rows)}

    return read


def variance(group: str, estimator: str, over: str | None = None, point: float | None = None) -> Reader:
    """The variance of a gradient, or its ratio to the variance of the estimator `over`, with its interval.

    Args:
      point: The value of the swept option at which the variance is read; by default the largest value.
    """

    def read(path: Path) -> dict[str, Any]:
        laboratory, rows = _laboratory(path, estimator)
        at = (lambda row: row[laboratory.point]) if laboratory.point else lambda row: 0
        [row] = [row for row in rows if at(row) == (max(map(at, rows)) if point is None else point)]
        if over is None:
            value, low, high = (tables.number(row[f"{group}_variance{end}"], 4) for end in ("", "_low", "_high"))
            obtained = f"{value} [{low}, {high}]"
        else:
            [pair] = [pair for pair in _variance_ratios(laboratory, group, {over, estimator}) if at(pair) == at(row)]
            ratio, low, high = (pair[f"ratio{end}"] for end in ("", "_low", "_high"))
            if pair["first"] == over:
                ratio, low, high = 1 / ratio, 1 / high, 1 / low
            obtained = f"{tables.number(ratio)} [{tables.number(low)}, {tables.number(high)}] of {over}'s"
        return {"obtained": obtained, **_laboratory_columns(laboratory, [row])}

    return read


def distances(group: str, estimators: tuple[str, ...]) -> Reader:
    """The distances of mean gradients from the exact gradient, as fractions of its length, the smallest first.

    An estimator that was measured with several options is listed once, at its smallest distance. A ± is the distance
    that the noise of the draws gives an unbiased estimator; the standard error of a longer distance is smaller.
    """

    def read(path: Path) -> dict[str, Any]:
        nearest = []
        for estimator in estimators:
            laboratory, rows = _laboratory(path, estimator)
            nearest.append((estimator, min(rows, key=lambda row: results.least_first(row[f"{group}_relative_bias"]))))
        nearest.sort(key=lambda pair: results.least_first(pair[1][f"{group}_relative_bias"]))
        listed = ", ".join(
            f"{name} {row[f'{group}_relative_bias']:.2f} ± {row[f'{group}_relative_stderr']:.2f}"
            for name, row in nearest
        )
        columns = _laboratory_columns(laboratory, [row for _, row in nearest])
        return {"obtained": f"{listed} ({_in_words(1)})", **columns}

    return read


def toy_ranking(point: str, figure: str, estimators: tuple[str, ...]) -> Reader:
    """The final loss or the first variance of some estimators at a point of a toy problem, the smallest first."""

    def read(path: Path) -> dict[str, Any]:
        [toy] = workdirs.read([path]).toys
        rows = [row for row in toy.rows if row["point"] == point and row["estimator"] in estimators]
        if missing := set(estimators) - {row["estimator"] for row in rows}:
            raise ValueError(f"{path} has no row of {', '.join(sorted(missing))}; run the script again")
        rows.sort(key=lambda row: results.least_first(row[figure]))
        settings = toy.config["settings"]
        listed = ", ".join(f"{row['estimator']} {_precise(row, figure)}" for row in rows)
        known = [BY_NAME[row["estimator"]] for row in rows if row["estimator"] in BY_NAME]  # all but planted slips
        samples = {max(settings["num_samples"], entry.min_samples) for entry in known}
        length = f", {settings['steps']} steps" if figure == "final_loss" else ""
        return {
            "obtained": f"{listed} ({_in_words(settings['seeds'])})",
            "K": ", ".join(map(str, sorted(samples))),
            "data": f"{settings['toy']} toy{length}",
            "seeds": settings["seeds"],
            **provenance_columns(toy.config, toy.config["seconds"]),
        }

    return read


def provenance_columns(config: dict[str, Any], seconds: float) -> dict[str, str]:
    """The precision, the machine, the minutes and the commit of a result."""
    backend, *platform = [part for part in config["platform"].split(", ") if part != "x86_64"]
    commits = dict.fromkeys(one.get("git_commit") or "" for one in (config, *config.get("continued", [])))
    return {
        "precision": _precision(config["settings"], backend),
        "machine": ", ".join([config["device"].removeprefix("1 x "), *platform]),
        "minutes": "-" if math.isnan(seconds) else tables.number(seconds / 60, 2),
        "commit": ", ".join(map(provenance.short, commits)),
    }


def _precision(settings: dict[str, Any], backend: str) -> str:
    """The precision of the networks' layers, and of matrix products if it differs."""
    layers = settings.get("compute_dtype", "float32")
    products = settings.get("matmul_precision", "default")
    same = products == layers or products == "default" and (backend == "cpu" or layers != "float32")
    return layers if same else f"{layers}, {products} products"


def _finished_runs(path: Path, figure: str, settings: dict[str, Any]) -> list[Run]:
    """The runs with these settings.

    Raises:
      ValueError: If there is no such run, or if one of the runs is unfinished, diverged or without the figure.
    """
    runs = workdirs.read([path]).runs
    runs = [run for run in runs if all(str(run.row[key]) == str(value) for key, value in settings.items())]
    done = [run for run in runs if run.row.get("status") == "done"]
    if len(done) < max(1, len(runs)):
        diverged = sum(run.row.get("status") == "diverged" for run in runs)
        chosen = " with " + ", ".join(f"{key}={value}" for key, value in settings.items()) if settings else ""
        and_diverged = f", and {diverged} diverged" if diverged else ""
        raise ValueError(
            f"{path} has {len(done)} finished of {len(runs)} runs{chosen}{and_diverged}; run the script again to finish"
            " it"
        )
    if not all(figure in run.row for run in done):
        raise ValueError(f"{path} has a run without {figure}; run the script again")
    return done


def _with_best_evaluation(run: Run) -> Run:
    """The run with the figures of its most accurate evaluation at the end of training."""
    at_the_end = [row for row in run.evaluations if row["epoch"] == run.row["epochs"]]
    return run._replace(row=run.row | results.most_accurate([run.row, *at_the_end]))


def _number_of_seeds(path: Path, runs: list[Run]) -> int:
    """The number of seeds of runs that differ only in the seed."""
    if others := results.varying([run.row for run in runs]):
        raise ValueError(f"{path} has runs that differ in {', '.join(others)}; move all but one aside")
    return len({run.row["seed"] for run in runs})


def _run_columns(runs: list[Run], figure: str) -> dict[str, str]:
    """The columns about the runs behind a figure."""
    each = lambda value: ", ".join(dict.fromkeys(str(value(run)) for run in runs))
    importance_weighted = "nll" in figure or "bits" in figure
    evaluated = each(lambda run: run.row["eval_samples"]) if importance_weighted else assess.ELBO_SAMPLES
    # Runs that trained together have the same clock, so its seconds are counted once.
    clocks = {run.seconds[-1] if run.seconds else math.nan for run in runs}
    columns = [provenance_columns(run.record, sum(clocks)) for run in runs]
    return {
        "K": f"{each(lambda run: run.row['num_samples'])}; evaluated with {evaluated}",
        "data": each(lambda run: f"{run.row['dataset']}, {run.row['binarization']}"),
        **{name: ", ".join(dict.fromkeys(one[name] for one in columns)) for name in columns[0]},
    }


def _laboratory(path: Path, estimator: str) -> tuple[Laboratory, list[dict[str, Any]]]:
    """The laboratory's result in a folder, and its rows of an estimator with any options."""
    [laboratory] = workdirs.read([path]).laboratories
    rows = [row for row in laboratory.rows if _without_options(row["estimator"]) == estimator]
    if not rows:
        raise ValueError(f"{path} has no row of {estimator}; run the script again")
    return laboratory, rows


def _variance_ratios(laboratory: Laboratory, group: str, estimators: set[str]) -> list[dict[str, Any]]:
    """The rows of pairs.csv with the ratio of the two estimators' variances. There is a row for each point."""
    return [
        pair
        for pair in laboratory.pairs()
        if (pair["group"], pair["figure"]) == (group, "variance") and {pair["first"], pair["second"]} == estimators
    ]


def _laboratory_columns(laboratory: Laboratory, rows: list[dict[str, Any]]) -> dict[str, str]:
    """The columns about a measurement of the laboratory."""
    samples = [row["num_samples"] for row in rows]
    draws = laboratory.config["settings"]["draws"]
    return {
        "K": f"{samples[0]} to {samples[-1]}" if len(set(samples)) > 1 else str(samples[0]),
        "data": f"{rows[0]['problem']}, {draws} gradients",
        **provenance_columns(laboratory.config, laboratory.config.get("seconds", math.nan)),
    }


def _without_options(choice: str) -> str:
    """The name without its options: "reinmax" for "reinmax:temperature=1.3"."""
    return choice.partition(":")[0]


def _precise(row: dict[str, Any], figure: str) -> str:
    """A figure of a toy problem with its standard error, or with five digits if the error is beyond the fifth."""
    error = row.get(f"{figure}_stderr", math.nan)
    visible = error > 1e-5 * abs(row[figure])
    return tables.plus_minus(row[figure], error) if visible else tables.number(row[figure], 5)


def _in_words(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"
