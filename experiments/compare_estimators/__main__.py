"""Measures which gradient estimator is better on a problem, by how much, and at what cost (the laboratory).

    python -m experiments.compare_estimators --problem=quadratic                     # every estimator that fits
    python -m experiments.compare_estimators --problem=cosine:cost_parameter=0.5,cosine:cost_parameter=2
    python -m experiments.compare_estimators --problem=rainforth --objective=iwae --num_samples=4,16,64,256
    python -m experiments.compare_estimators --problem=logistic_regression --budget=evaluations:16
    python -m experiments.compare_estimators --workdir=results/quickstart            # a trained run, at its end
    python -m experiments.compare_estimators --problem=mine:problem                  # see experiments/common/problems
    python -m experiments.compare_estimators --problem=all                           # the matrix of all problems

Parameters and data stay fixed. Every estimator draws --draws gradients from the same keys. Groups of parameters
(encoder and decoder, or phi and theta) are compared separately. `vae.diagnostics` defines the figures. The truth is the
gradient that the estimators are compared with. It is exact where an oracle, a sum over all states or a quadrature
exists. Elsewhere the truth is the mean of many gradients of --reference, and its error is taken into account.

An estimator is called biased in either of two cases. In the first, its largest |z| over the group's coordinates is
beyond what chance allows (0.01 %, by Bonferroni), and the deviation of the whole gradient is more than twice as long as
chance makes it. In the second, its bias along the truth has a |z| of 5 or more. Two estimators are called different
only if the interval of the ratio of their variance x FLOP excludes 1, and if not all of it is within 1 % of 1. The
intervals of all ratios in a table hold at once with probability --confidence. --judge_by names another cost than FLOP.
If f calls a function on the host, such as a simulator in NumPy, XLA cannot count its FLOP, and evaluations of f take
their place.

The command writes into --output: results.csv (a row for each estimator and K), layers.csv, pairs.csv, results.md,
results.tex, config.json and figures/. Everything measured is written into store/ at once; the same command continues
from there, and so does a command with more estimators and the same --output. Measurements of your own
--problem=module:function are not stored, because they may depend on any code. In the tables, * marks estimators that
their papers call biased.
"""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.common import (
    candidates,
    cli,
    files,
    foreign_files,
    measuring,
    phases,
    problems,
    provenance,
    run_selection,
)
from experiments.common import options as grammar
from experiments.common.charts import gradients
from experiments.common.measuring import Protocol
from experiments.common.settings import Settings
from experiments.common.store import Store, digest
from experiments.common.task import Refused, Task
from experiments.compare_estimators import matrix, output, user_problem
from experiments.compare_estimators.choose_cases import choose_budget, choose_cases, numbers_of_samples
from experiments.compare_estimators.choose_tasks import choose_tasks
from experiments.compare_estimators.measure_all import measure_all, time_all
from experiments.compare_estimators.rows import make_rows
from vae.estimators import BY_NAME

# Flags that increase the use of memory, the most likely cause first. The error about too little memory names them.
MEMORY_FLAGS = ("num_samples", "batch_size")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`. They are not defined at import, where they would meet flags of other commands."""
    flags.DEFINE_list(
        "problem",
        None,
        f"Problem, with options as name:option=value: one of {', '.join(problems.BY_NAME)}; or your own"
        " module:function. A list of the same problem with different values of one option is a sweep. all measures"
        " every problem and draws the matrix of estimators and problems. The default is quadratic.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a trained run or of a sweep, used in place of --problem. Nothing is written into it.",
        flag_values=values,
    )
    flags.DEFINE_string("run", None, "Settings of the run to choose from a sweep, as in evaluate.", flag_values=values)
    flags.DEFINE_string(
        "checkpoint",
        "latest",
        "Checkpoint of --workdir: latest, best (by the validation bound), the number of an epoch, or all.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "estimators",
        None,
        "Estimators, comma-separated, with options as name:option=value. The default is every estimator that fits.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "objective",
        None,
        "Bound: one of the problem's bounds, or with --workdir any objective of experiments.train, with options as in"
        " renyi:alpha=0.5. The default is the problem's first bound, or the run's own.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "num_samples",
        None,
        "Numbers of samples K, comma-separated; each K is measured. The default is the run's own K with --workdir, and"
        " otherwise 1. An estimator that needs more samples gets the smallest number that it works with, or is left out"
        " if that number would change the bound.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "budget",
        None,
        "Largest cost of one gradient, used in place of --num_samples: evaluations:N (of f, for each datum) or flops:N"
        " (for the whole batch). Each estimator gets the largest K within the budget.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "judge_by",
        None,
        list(gradients.COSTS),
        "Cost that is multiplied with the variance to say which estimator is better. The default is flops, or"
        " evaluations if f calls the host.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "columns",
        None,
        "Columns of the tables in results.md and results.tex, comma-separated, such as estimator,variance,verdict. The"
        " default is all columns in results.md, and those that fit on a page in results.tex.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "draws",
        None,
        "Number of gradients of each estimator. The default is 10000, and 1000 with --workdir.",
        lower_bound=20,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "reference_draws",
        None,
        "Number of gradients that the reference averages, if there is no exact gradient. The default is 10 x --draws.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference",
        None,
        "Estimator whose mean is the truth, if there is no exact gradient. The default is reparam, and leave_one_out"
        " for latents that cannot be reparameterized.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Number of images for --workdir. The default is the run's own batch size.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "split", "test", ["train", "validation", "test"], "Split of the images for --workdir.", flag_values=values
    )
    flags.DEFINE_integer(
        "cv_steps",
        200,
        "Number of Adam steps in which an estimator learns its own parameters and updates its state, before both are"
        " frozen. With --workdir and the run's own objective, the run's estimator starts from the checkpoint.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "confidence",
        0.95,
        "Level of every interval, and of all comparisons in a table together (familywise).",
        lower_bound=0.5,
        upper_bound=0.999,
        flag_values=values,
    )
    flags.DEFINE_integer("replicates", 2000, "Number of bootstrap replicates.", lower_bound=100, flag_values=values)
    flags.DEFINE_integer(
        "rounds",
        9,
        "Number of rounds of timing, in which the estimators take turns.",
        lower_bound=3,
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Seed of all draws.", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the results. The default is a folder in results/ with a name made from the flags.",
        flag_values=values,
    )
    flags.DEFINE_string("data_dir", None, "Folder of prepared data for --workdir, as in training.", flag_values=values)
    flags.DEFINE_string("cache_dir", None, "Folder of decoded data for --workdir, as in training.", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    """Measures, compares and writes the files. Bad input ends with one sentence on stderr and exit status 1."""
    with cli.one_sentence():
        check_flags(options)
        run = _trained_run(options) if options.workdir else Settings()
    with jax.default_matmul_precision(run.matmul_precision):
        if options.problem == [matrix.ALL]:
            folder = Path(options.output or default_output(options))
            matrix.measure(options, folder, lambda options: compare(options, run))
        else:
            compare(options, run)


def _trained_run(options: flags.FlagValues) -> Settings:
    folder, number = run_selection.choose_one(options.workdir, options.run)
    return folder.runs()[number]


def compare(options: flags.FlagValues, run: Settings) -> None:
    """Measures all tasks and writes the files. `run` has the settings of --workdir, or the default settings."""
    started = time.perf_counter()

    # ---- The tasks: one, or several that differ in parameters and data
    users_problem = None
    if options.problem and user_problem.is_users(options.problem[0]):
        with cli.one_sentence():
            make = user_problem.load(options.problem[0])
        users_problem = make()  # a mistake in the user's functions keeps its traceback
        with cli.one_sentence(user_problem.Unsuitable, NotImplementedError):
            user_problem.check(users_problem, options.problem[0])
    with cli.one_sentence():
        tasks = choose_tasks(options, users_problem)
    task = tasks[0]
    with cli.one_sentence(NotImplementedError):  # a KL has no closed form
        _ = task.host_calls  # a mistake in the user's bound keeps its traceback

    # ---- The protocol of the measurements
    with cli.one_sentence():
        names = candidates.choose(task, options.estimators)
        protocol = choose_protocol(options, task)
        samples = numbers_of_samples(options, task)
        budget = choose_budget(options, task)
        output.check_columns(options.columns, protocol.judge_by)
        folder = Path(options.output or default_output(options))
        files.check_writable(folder, "output")
        foreign_files.refuse_links(folder)

    # ---- The measurements
    settings = {"estimators": names, "num_samples": samples, "budget": budget, **protocol._asdict()}
    settings["columns"] = options.columns
    measurement = digest_measurement(tasks, settings)
    if is_written(folder, measurement):
        print((folder / "results.md").read_text(encoding="utf-8"))
        print(f"{folder} holds the results of this command already; give another --output to measure again")
        return
    with cli.one_sentence(OSError, Refused):
        store = Store(folder / "store")
        cases = choose_cases(task, names, samples, budget, options.estimators is not None, store)
        results = measure_all(tasks, cases, protocol, store)
        seconds = time_all(task, cases, protocol, store)

    # ---- The files
    with cli.one_sentence(OSError):
        phases.say("comparing")
        rows = make_rows(results, cases, seconds, protocol)
        output.write(folder, tasks, results, rows, protocol, options.columns)
        decided = {"objective": task.objective, **protocol._asdict(), "compute_dtype": run.compute_dtype}
        decided |= {"num_samples": None if budget else [str(k) for k in samples]}
        took = time.perf_counter() - started + store.earlier_seconds
        config = provenance.describe_measurement(cli.given(define_flags, options) | decided, took)
        files.write_json(folder / "config.json", config | {"measurement": measurement})


def check_flags(options: flags.FlagValues) -> None:
    """Refuses flags that are empty or do not go together.

    Raises:
      ValueError: if a flag is wrong; the message says what to do.
    """
    if options.workdir and options.problem:
        raise ValueError("--workdir and --problem name two problems; give one of them")
    for flag in ("run", "checkpoint", "split", "data_dir", "cache_dir"):
        if options[flag].present and not options.workdir:
            raise ValueError(f"--{flag} is about a run of --workdir; add --workdir, or leave out --{flag}")
    for flag in ("problem", "num_samples", "estimators"):
        if options[flag].value == []:
            raise ValueError(f"--{flag} is empty; leave it out for its default")
    problem = options.problem or []
    if matrix.ALL in problem:
        matrix.check_flags(options)
    if len(problem) > 1 and any(map(user_problem.is_users, problem)):
        raise ValueError("--problem takes one module:function; measure your problems one after the other")
    if math.isnan(options.confidence):
        raise ValueError("--confidence must be a number from 0.5 to 0.999")


def choose_protocol(options: flags.FlagValues, task: Task) -> Protocol:
    """The protocol that the flags describe.

    Raises:
      ValueError: if the numbers of draws cannot be cut into chunks, or the reference does not fit.
    """
    draws = options.draws or (1000 if options.workdir else 10_000)
    chunks = measuring.number_of_chunks(draws, most=10 if measuring.is_large(task) else 50)
    reference_draws = options.reference_draws or 10 * draws
    if reference_draws % chunks or reference_draws < 2 * chunks:
        raise ValueError(
            f"--reference_draws={reference_draws} must be a multiple of {chunks}, and {2 * chunks} or more"
        )
    return Protocol(
        draws=draws,
        reference_draws=reference_draws,
        reference=choose_reference(options, task),
        chunks=chunks,
        replicates=options.replicates,
        cv_steps=options.cv_steps,
        seed=options.seed,
        confidence=options.confidence,
        rounds=options.rounds,
        judge_by=choose_cost(options, task),
    )


def choose_cost(options: flags.FlagValues, task: Task) -> str:
    """The cost that decides which estimator is better.

    Raises:
      ValueError: if --judge_by or --budget takes FLOP, and f calls the host.
    """
    calls = task.host_calls.names
    if not calls:
        return options.judge_by or "flops"
    for flag, text in (("judge_by", options.judge_by), ("budget", options.budget)):
        if text and text.partition(":")[0] == "flops":
            others = "evaluations:N" if flag == "budget" else "evaluations or seconds"
            raise ValueError(f"--{flag}={text}: f calls the host ({calls[0]}), whose FLOP nobody counts; take {others}")
    return options.judge_by or "evaluations"


def choose_reference(options: flags.FlagValues, task: Task) -> str:
    """The estimator whose mean is the truth where no exact gradient exists.

    Raises:
      ValueError: if --reference does not fit or is biased.
    """
    is_biased = lambda name: BY_NAME.find(grammar.parse(name).name).biased
    fitting = candidates.choose(task)
    if options.reference is None:
        return "reparam" if "reparam" in fitting else "leave_one_out"
    [name] = candidates.choose(task, [options.reference], flag="reference")
    if is_biased(name):
        unbiased = ", ".join(other for other in fitting if not is_biased(other))
        raise ValueError(f"--reference={name} is biased, so its mean is not the truth; choose one of {unbiased}")
    return name


def is_stored(options: flags.FlagValues = flags.FLAGS) -> bool:
    """Whether measurements are stored, so that the same command continues. A user's own problem is never stored."""
    return not any(map(user_problem.is_users, options.problem or []))


def digest_measurement(tasks: list[Task], settings: dict[str, Any]) -> str | None:
    """The digest of everything that determines the content of the files; None if a problem has no identity."""
    identities = [task.problem.identity for task in tasks]
    if None in identities:
        return None
    return digest(what="files", problems=identities, objective=tasks[0].objective, settings=settings)


def is_written(folder: Path, measurement: str | None) -> bool:
    """Whether the folder holds the files of this measurement. config.json is written after all others."""
    config = folder / "config.json"
    if measurement is None or not config.exists() or not (folder / "results.md").exists():
        return False
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("measurement") == measurement
    except ValueError:  # another program wrote this file
        return False


def default_output(options: flags.FlagValues) -> str:
    """The default of --output. Its name depends on the flags, so the same command gets the same folder."""
    given = cli.given(define_flags, options)
    texts = [f"{name}={given[name]}" for name in sorted(given) if name != "output"]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
    name = Path(options.workdir).name if options.workdir else (options.problem or ["quadratic"])[0].replace(":", "-")
    return f"results/compare-{name}-{digest}"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=is_stored, memory_flags=MEMORY_FLAGS)
