"""The laboratory: which gradient estimator is better here, by how much, and for what cost.

    python -m experiments.compare_estimators --problem=quadratic                        # every estimator that fits
    python -m experiments.compare_estimators --problem=cosine --cost_parameter=0.5,1,2,4 --estimators=reparam,reinforce
    python -m experiments.compare_estimators --problem=rainforth --objective=iwae --num_samples=4,16,64,256
    python -m experiments.compare_estimators --problem=logistic_regression --budget=evaluations:16
    python -m experiments.compare_estimators --workdir=results/quickstart                # at each of its checkpoints
    python -m experiments.compare_estimators --problem=mine:problem                     # see experiments/problems.py

With parameters and data fixed, every estimator draws --draws gradients from the same keys. Groups of parameters
(encoder and decoder, or phi and theta) are judged apart. `vae/diagnostics.py` defines the figures. The truth is an
oracle where there is one; elsewhere it is the mean of many gradients of --reference, whose own error is counted.

An estimator is called biased if its largest |z| over the group's coordinates, or the z of its bias along the truth, is
beyond what chance allows (0.01 %, by Bonferroni over coordinates). Two estimators are called different only if the
bootstrap interval of the ratio of their variance x FLOP excludes 1. Intervals are of each pair alone.

Writes into --output: results.csv (a row for each estimator and K), layers.csv, pairs.csv, results.md, results.tex,
config.json and figures/. In the tables * marks estimators that their papers call biased.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import cli, laboratory, laboratory_tables, problems, tables, workdir
from experiments.problems import Problem
from vae import plots, plots_gradients
from vae.estimators import BY_NAME


def define_flags(values: flags.FlagValues) -> None:
    """The laboratory's flags; not at import, where they would meet those of other entry points."""
    flags.DEFINE_string(
        "problem",
        None,
        f"one of {', '.join(problems.BY_NAME)}, or your own module:function (quadratic if nothing is given)",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir", None, "folder of a trained run, in place of --problem; it is read, not written", flag_values=values
    )
    flags.DEFINE_list("estimators", None, "names, comma-separated; all that fit by default", flag_values=values)
    flags.DEFINE_enum(
        "objective",
        None,
        ["elbo", "elbo_analytic", "iwae"],
        "the bound; by default the problem's own",
        flag_values=values,
    )
    flags.DEFINE_list(
        "num_samples",
        ["1"],
        "K, a list is swept; an estimator that needs more gets the least that it can work with",
        flag_values=values,
    )
    flags.DEFINE_string(
        "budget",
        None,
        "evaluations:N or flops:N for one gradient, in place of --num_samples: K is what that buys",
        flag_values=values,
    )
    flags.DEFINE_list(
        "cost_parameter", None, "k of quadratic, exponential and cosine; a list is swept", flag_values=values
    )
    flags.DEFINE_integer(
        "draws",
        None,
        "R, gradients of each estimator; 10000 by default, 1000 for --workdir",
        lower_bound=20,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "reference_draws",
        None,
        "gradients behind the reference where there is no oracle; 10 x --draws by default",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference",
        None,
        "estimator whose mean is the truth where there is no oracle; reparam by default, and leave_one_out where there"
        " is no reparameterization",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "data in the batch; by default the problem's or the run's own",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "images for --workdir", flag_values=values)
    flags.DEFINE_integer(
        "cv_steps",
        200,
        "Adam steps for what an estimator learns or counts, before it is frozen",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float("confidence", 0.95, "of every interval", lower_bound=0.5, upper_bound=0.999, flag_values=values)
    flags.DEFINE_integer("replicates", 400, "of the bootstrap", lower_bound=100, flag_values=values)
    flags.DEFINE_integer("rounds", 9, "of timing, interleaved between estimators", lower_bound=3, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of all draws", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "output", None, "folder of the results; by default results/ and a name made from the flags", flag_values=values
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared data for --workdir, as in training", flag_values=values)
    flags.DEFINE_string("cache_dir", None, "folder of decoded data for --workdir, as in training", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    with cli.one_sentence():
        points, objective = _points(options)
        protocol = _protocol(points[0], objective, options)
        folder = Path(options.output or _default_output(options))
        workdir.check_writable(folder)
        cases = _cases(points[0], objective, options)
        found = laboratory.measure_all(points, objective, cases, protocol)
        seconds = laboratory.time_all(points[0], objective, cases, protocol)
        rows, layers, pairs = laboratory_tables.tabulate(found, cases, seconds, protocol.confidence)
        _write(folder, points, objective, found, (rows, layers, pairs), protocol)
        workdir.write_json(folder / "config.json", _config(options, objective, protocol))


def _points(options: flags.FlagValues) -> tuple[list[Problem], str]:
    """The problems to measure at, which differ in parameters and data alone, and the objective."""
    if options.workdir and options.problem:
        raise ValueError("--workdir and --problem name two problems; give one of them")
    name = options.problem or "quadratic"
    costs = options.cost_parameter
    if costs is not None and (options.workdir or name not in problems.COSTS):
        raise ValueError(f"--cost_parameter is k of {', '.join(problems.COSTS)}; leave it out for other problems")
    sized = {} if options.batch_size is None else {"batch_size": options.batch_size}
    if sized and not options.workdir and name not in problems.SIZED:
        raise ValueError(f"--batch_size is for --workdir, {', '.join(problems.SIZED)}; leave it out for {name}")
    if options.workdir:
        points = problems.of_workdir(
            options.workdir, options.objective, options.split, options.batch_size, options.data_dir, options.cache_dir
        )
    elif ":" in name:
        points = [problems.of_user(name)]
    elif name not in problems.BY_NAME:
        raise ValueError(f"--problem={name} is none of {', '.join(problems.BY_NAME)}, nor module:function")
    elif costs is not None:
        points = [problems.BY_NAME[name](k) for k in sorted({_number("cost_parameter", k, float) for k in costs})]
    else:
        points = [problems.BY_NAME[name](**sized)]
    objective = options.objective or next(iter(points[0].bounds))
    if objective not in points[0].bounds:
        able = ", ".join(points[0].bounds)
        raise ValueError(f"--objective={objective} is not an objective of {points[0].name}; it has {able}")
    return points, objective


def _cases(problem: Problem, objective: str, options: flags.FlagValues) -> list[laboratory.Case]:
    """Every estimator with every K, or with the K that the budget buys; says what was left out."""
    asked = options.estimators is not None
    names = laboratory.choose(problem, objective, options.estimators)
    samples = sorted({_number("num_samples", k, int) for k in options.num_samples})
    if samples[0] < 1:
        raise ValueError(f"--num_samples must be 1 or more, got {samples[0]}")
    budget = laboratory.parse_budget(options.budget)
    if budget and samples != [1]:
        raise ValueError("--budget decides K itself; leave out --num_samples")
    cases, left_out = [], []
    with laboratory.progress([None] * len(names) * (1 if budget else len(samples)), "costs") as bar:
        for (slot, wanted), name in itertools.product(enumerate([None] if budget else samples), names):
            bar.update()
            try:
                if budget:
                    k = laboratory.affordable(
                        budget, functools.partial(laboratory.cost, problem, objective, name, budget[0]), name
                    )
                else:
                    k = max(wanted, BY_NAME[name].min_samples)
                evaluations, flops = (
                    laboratory.cost(problem, objective, name, kind, k) for kind in ("evaluations", "flops")
                )
                cases.append(laboratory.Case(name, k, slot, int(evaluations), flops))
            except (ValueError, NotImplementedError) as error:
                if asked:
                    raise
                left_out.append(f"left out: {error}")
    for sentence in left_out + [f"the budget buys {c.name} K={c.num_samples}" for c in cases if budget]:
        print(sentence)
    if not cases:
        raise ValueError("no estimator is left to measure")
    return cases


def _protocol(problem: Problem, objective: str, options: flags.FlagValues) -> laboratory.Protocol:
    draws = options.draws or (1000 if options.workdir else 10_000)
    chunks = laboratory.cut(draws, 10 if laboratory.size(problem) > laboratory.LARGE else 50)
    reference = options.reference_draws or 10 * draws
    if reference % chunks or reference < 2 * chunks:
        raise ValueError(f"--reference_draws={reference} must be a multiple of {chunks}")
    able = laboratory.choose(problem, objective, None)
    name = options.reference or ("reparam" if "reparam" in able else "leave_one_out")
    if name not in BY_NAME:
        raise ValueError(f"--reference={name} is not one of {', '.join(BY_NAME)}")
    others = (options.replicates, options.cv_steps, options.seed, options.confidence, options.rounds)
    return laboratory.Protocol(draws, reference, name, chunks, *others)


def _write(folder: Path, points, objective, found, measured, protocol: laboratory.Protocol) -> None:
    groups, rows = list(points[0].params), measured[0]
    for name, table in zip(("results", "layers", "pairs"), measured, strict=True):
        workdir.write_text(folder / f"{name}.csv", tables.to_csv(table))
    markdown, latex = [], []
    for point in points:
        mine = [row for row, one in zip(rows, found, strict=True) if one.problem is point]
        for group in groups:
            place = "".join(f", {key}={value:g}" for key, value in point.point.items())
            truths = " and ".join(dict.fromkeys(row["truth"] for row in mine))
            title = f"{point.name}{place}, {objective}: gradient of {group}; truth: {truths}"
            table = laboratory_tables.cells(mine, group)
            markdown.append(f"**{title}**\n\n{tables.to_markdown(table)}\n")
            latex.append(tables.to_latex(table, title))
    note = (
        f"{protocol.draws} draws each; intervals {100 * protocol.confidence:g} %, bootstrap over chunks of"
        " draws; variance is the trace of the covariance; variance x FLOP and x time are relative to the best unbiased;"
        " the verdict is on variance x FLOP; * biased by its paper"
    )
    workdir.write_text(folder / "results.md", "\n".join([*markdown, note, ""]))
    workdir.write_text(folder / "results.tex", "\n\n".join(latex) + "\n")
    _draw(folder / "figures", points, found, rows)
    print("\n".join([*markdown, note, ""]))
    print(f"figures: {', '.join(str(p) for p in sorted((folder / 'figures').glob('*.png')))}")
    print(f"every number: {folder / 'results.csv'}; by layer: layers.csv; every pair: pairs.csv; LaTeX: results.tex")


def _draw(folder: Path, points, found, rows) -> None:
    groups, several = list(points[0].params), len({row["num_samples"] for row in rows}) > 1
    label = lambda row: f"{row['estimator']}, K={row['num_samples']}" if several else row["estimator"]
    for point in points:
        mine = [r | {"label": label(r)} for r, one in zip(rows, found, strict=True) if one.problem is point]
        place = "".join(f"_{key}={value:g}" for key, value in point.point.items()) if len(points) > 1 else ""
        plots.save(plots_gradients.bias_forest(mine, groups), folder / f"bias{place}")
        plots.save(plots_gradients.variance_against_cost(mine, groups), folder / f"variance_cost{place}")
        if len({one.case.slot for one in found}) > 1:
            plots.save(plots_gradients.against(mine, groups, "num_samples", "snr"), folder / f"snr{place}")
    if len(points) > 1:
        [name] = points[0].point
        rows = [row | {"label": label(row)} for row in rows]
        plots.save(plots_gradients.against(rows, groups, name, "variance", by="label"), folder / f"variance_{name}")


def _config(options: flags.FlagValues, objective: str, protocol: laboratory.Protocol) -> dict[str, Any]:
    names = flags.FlagValues()
    define_flags(names)
    settings = {name: options[name].value for name in names if name in options}
    return {
        "command": "python -m experiments.compare_estimators " + " ".join(sys.argv[1:]),
        "settings": settings | {"objective": objective, **protocol._asdict()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in workdir.PACKAGES},
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": f"{jax.default_backend()}, {platform.machine()}, {os.cpu_count()} cores",
        "git_commit": workdir.git_commit(),
    }


def _number(flag: str, text: str, kind: type):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"--{flag}: {text!r} is not {'an integer' if kind is int else 'a number'}")
    return value


def _default_output(options: flags.FlagValues) -> str:
    """A name that the same command finds again."""
    names = flags.FlagValues()
    define_flags(names)
    flags_given = [f"{name}={options[name].value}" for name in sorted(names) if name != "output"]
    digest = hashlib.sha256(json.dumps(flags_given).encode()).hexdigest()[:8]
    name = Path(options.workdir).name if options.workdir else (options.problem or "quadratic").replace(":", "-")
    return f"results/compare-{name}-{digest}"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
