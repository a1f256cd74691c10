"""What `python -m experiments.compare_estimators` asks of the laboratory, and the files that it leaves."""

import functools
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.common import candidates, checks, cli, files, problems, provenance, tables
from experiments.common.options import entry, has_temperature, tempered
from experiments.common.problems import Problem
from experiments.common.run_folder import RunFolder
from experiments.common.settings import OBJECTIVES, Settings
from experiments.common.store import Store
from experiments.compare_estimators import laboratory
from experiments.compare_estimators import verdicts as laboratory_tables
from experiments.compare_estimators.__main__ import PROBLEMS, define_flags


def compare(options: flags.FlagValues) -> None:
    """Measures, tabulates, draws; bad input is one sentence and exit 1. A mistake in a bound, which may be the user's,
    is none, and keeps its traceback."""
    with cli.one_sentence():
        _check(options)
        run = RunFolder(options.workdir).settings() if options.workdir else Settings()
    with jax.default_matmul_precision(run.matmul_precision):
        _compare(options, run)


def _compare(options: flags.FlagValues, run: Settings) -> None:
    """`run`: whose precision is measured."""
    started = time.perf_counter()
    with cli.one_sentence():
        make = problems.of_user(options.problem) if ":" in (options.problem or "") else None
    made = make() if make else None
    with cli.one_sentence():
        points, objective = _points(options, made)
    with cli.one_sentence(NotImplementedError):  # of latents whose KL has no closed form
        candidates.posteriors(points[0], objective)
    with cli.one_sentence():
        names = candidates.choose(points[0], objective, options.estimators)
        if options.temperature and not any(map(has_temperature, names)):
            raise ValueError(f"--temperature is for {', '.join(tempered())}; leave it out, or measure one of these")
        protocol = _protocol(points[0], objective, options)
        samples, budget = _samples(options, points[0], objective)
        folder = Path(options.output or _default_output(options))
        files.check_writable(folder, "output")
        checks.refuse_links(folder)
    with cli.one_sentence(OSError, candidates.Refused):
        cases = _cases(points[0], objective, names, samples, budget, asked=options.estimators is not None)
        store = Store(folder / "kept")
        found = laboratory.measure_all(points, objective, cases, protocol, store)
        seconds = laboratory.time_all(points[0], objective, cases, protocol)
        rows, layers, pairs = laboratory_tables.tabulate(found, cases, seconds, protocol.confidence)
        _write(folder, points, objective, found, (rows, layers, pairs), protocol)
        decided = {"objective": objective, "temperature": points[0].temperature, **protocol._asdict()}
        decided |= {"compute_dtype": run.compute_dtype, "num_samples": None if budget else [str(k) for k in samples]}
        took = time.perf_counter() - started + store.earlier_seconds
        config = provenance.describe_measurement(cli.given(define_flags, options) | decided, took)
        files.write_json(folder / "config.json", config)


def _check(options: flags.FlagValues) -> None:
    """Refuses flags that say nothing, or do not go together."""
    if options.workdir and options.problem:
        raise ValueError("--workdir and --problem name two problems; give one of them")
    for flag in ("cost_parameter", "num_samples", "estimators"):
        if options[flag].value == []:
            raise ValueError(f"--{flag} is empty; leave it out for its default")
    if math.isnan(options.confidence):
        raise ValueError("--confidence is not a number")


def _points(options: flags.FlagValues, made: Any) -> tuple[list[Problem], str]:
    """The problems to measure at, which differ in parameters and data alone, and the objective. `made`: by the user's
    own function, where --problem names one."""
    name = options.problem or "quadratic"
    costs = options.cost_parameter
    if costs is not None and (options.workdir or PROBLEMS.get(name) != "cost_parameter"):
        raise ValueError(f"--cost_parameter is k of {_taking('cost_parameter')}; leave it out for other problems")
    sized = {} if options.batch_size is None else {"batch_size": options.batch_size}
    if sized and not options.workdir and PROBLEMS.get(name) != "batch_size":
        raise ValueError(f"--batch_size is for --workdir, {_taking('batch_size')}; leave it out for {name}")
    if options.workdir:
        if options.objective not in (None, *OBJECTIVES):
            raise ValueError(f"--objective={options.objective} is none of {', '.join(OBJECTIVES)}")
        points = problems.of_workdir(
            options.workdir,
            options.objective,
            options.split,
            options.batch_size,
            options.data_dir,
            options.cache_dir,
            options.checkpoint,
        )
    elif ":" in name:
        if not isinstance(made, Problem):
            raise ValueError(f"--problem={name} returned a {type(made).__name__}, not an experiments.problems.Problem")
        points = [made]
    elif name not in PROBLEMS:
        raise ValueError(f"--problem={name} is none of {', '.join(PROBLEMS)}, nor module:function")
    elif costs is not None:
        points = [getattr(problems, name)(k) for k in sorted({_number("cost_parameter", k, float) for k in costs})]
    else:
        points = [getattr(problems, name)(**sized)]
    if options.temperature:
        points = [point._replace(temperature=options.temperature) for point in points]
    objective = options.objective or next(iter(points[0].bounds))
    if objective not in points[0].bounds:
        able = ", ".join(points[0].bounds)
        raise ValueError(f"--objective={objective} is not an objective of {points[0].name}; it has {able}")
    return points, objective


def _taking(flag: str) -> str:
    """The problems that take this flag."""
    return ", ".join(name for name in PROBLEMS if PROBLEMS[name] == flag)


def _samples(options: flags.FlagValues, problem: Problem, objective: str) -> tuple[list[int], tuple[str, float] | None]:
    """Every K, and the budget that decides it instead."""
    asked = options.num_samples or [str(problem.num_samples)]
    samples = sorted({_number("num_samples", k, int) for k in asked})
    if samples[0] < 1:
        raise ValueError(f"--num_samples must be 1 or more, got {samples[0]}")
    budget = candidates.parse_budget(options.budget)
    if budget and options.num_samples:
        raise ValueError("--budget decides K itself; leave out --num_samples")
    if budget and candidates.multi_sample(problem, objective):
        raise ValueError(
            f"--budget gives each estimator its own K, of which --objective={objective} is another bound; give"
            " --num_samples"
        )
    return samples, budget


def _cases(problem: Problem, objective: str, names: list[str], samples, budget, asked: bool) -> list[candidates.Case]:
    """Every estimator with every K, or with the K that the budget buys; says what was left out."""

    def case(name: str, slot: int, wanted: int | None) -> candidates.Case:
        cost = functools.cache(functools.partial(candidates.cost, problem, objective, name))
        if budget:
            k = candidates.affordable(budget, functools.partial(cost, budget[0]), name)
        else:
            k = max(wanted, entry(name).min_samples)
            if k > wanted and candidates.multi_sample(problem, objective):
                raise candidates.Refused(
                    f"{name} needs K={k}, of which --objective={objective} is another bound than of K={wanted}"
                )
        return candidates.Case(name, k, slot, int(cost("evaluations", k)), cost("flops", k))

    items = [(name, slot, k) for slot, k in enumerate([None] if budget else samples) for name in names]
    cases = candidates.each(laboratory.progress(items, "costs"), case, asked)
    for chosen in cases if budget else ():
        print(f"the budget buys {chosen.name} K={chosen.num_samples}")
    return cases


def _protocol(problem: Problem, objective: str, options: flags.FlagValues) -> laboratory.Protocol:
    draws = options.draws or (1000 if options.workdir else 10_000)
    chunks = laboratory.cut(draws, 10 if laboratory.size(problem) > laboratory.LARGE else 50)
    reference = options.reference_draws or 10 * draws
    if reference % chunks or reference < 2 * chunks:
        raise ValueError(f"--reference_draws={reference} must be a multiple of {chunks}, and {2 * chunks} or more")
    able = candidates.choose(problem, objective, None)
    name = "reparam" if "reparam" in able else "leave_one_out"
    if options.reference is not None:
        [name] = candidates.choose(problem, objective, [options.reference], "reference")
        if entry(name).biased:
            fair = ", ".join(one for one in able if not entry(one).biased)
            raise ValueError(f"--reference: {name} is biased, and its mean is not the truth; these are not: {fair}")
    others = (options.replicates, options.cv_steps, options.seed, options.confidence, options.rounds)
    return laboratory.Protocol(draws, reference, name, chunks, *others)


def _write(folder: Path, points, objective, found, measured, protocol: laboratory.Protocol) -> None:
    groups, rows = list(points[0].params), measured[0]
    for name, table in zip(("results", "layers", "pairs"), measured, strict=True):
        files.write_text(folder / f"{name}.csv", tables.to_csv(table))
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
        " the verdict is on variance x FLOP; * biased by its paper; control variates were trained for"
        f" {protocol.cv_steps} steps here, a run's own on top of what the run had learned"
    )
    files.write_text(folder / "results.md", "\n".join([*markdown, note, ""]))
    files.write_text(folder / "results.tex", "\n\n".join(latex) + "\n")
    _draw(folder / "figures", points, found, rows, protocol.confidence)
    print("\n".join([*markdown, note, ""]))
    print(f"figures: {', '.join(str(p) for p in sorted((folder / 'figures').glob('*.png')))}")
    print(f"every number: {folder / 'results.csv'}; by layer: layers.csv; every pair: pairs.csv; LaTeX: results.tex")


def _draw(folder: Path, points, found, rows, confidence: float) -> None:
    from experiments.common import plots  # matplotlib takes memory that the measuring wants

    groups = list(points[0].params)
    for point in points:
        mine = [row for row, one in zip(rows, found, strict=True) if one.problem is point]
        place = "".join(f"_{key}={value:g}" for key, value in point.point.items()) if len(points) > 1 else ""
        plots.save(plots.bias_forest(mine, groups), folder / f"bias{place}")
        plots.save(plots.variance_against_cost(mine, groups), folder / f"variance_cost{place}")
        if len({one.case.slot for one in found}) > 1:
            plots.save(plots.against(mine, groups, "num_samples", "snr"), folder / f"snr{place}")
    if len(points) > 1:
        [name] = points[0].point
        plots.save(plots.against(rows, groups, name, "variance"), folder / f"variance_{name}")


def _number(flag: str, text: str, kind: type):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"--{flag}: {text!r} is not {'an integer' if kind is int else 'a number'}")
    if kind is int and abs(value) >= 2**31:
        raise ValueError(f"--{flag}: {text} does not fit into 32 bits")
    return value


def _default_output(options: flags.FlagValues) -> str:
    """A name that the same command finds again."""
    given = cli.given(define_flags, options)
    flags_given = [f"{name}={given[name]}" for name in sorted(given) if name != "output"]
    digest = hashlib.sha256(json.dumps(flags_given).encode()).hexdigest()[:8]
    name = Path(options.workdir).name if options.workdir else (options.problem or "quadratic").replace(":", "-")
    return f"results/compare-{name}-{digest}"
