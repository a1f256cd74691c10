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
chance makes it. In the second, its bias along the truth has a |z| of 5 or more. Two estimators are called different if
the interval of the ratio of their variance x FLOP excludes 1 and reaches beyond 1 ± 1 %. The intervals of all ratios in
a table hold at once with probability --confidence. --judge_by names another cost than FLOP. If f calls a function on
the host, such as a simulator in NumPy, XLA cannot count its FLOP, and evaluations of f take their place.

The command writes into --output: results.csv (a row for each estimator and K), layers.csv, pairs.csv, results.md,
results.tex, config.json and figures/. Everything measured is written into store/ at once; the same command continues
from there, and so does a command with more estimators and the same --output. Measurements of your own
--problem=module:function are not stored, because they may depend on any code. In the tables, * marks estimators that
their papers call biased.
"""

import dataclasses
import time

import jax
from absl import flags

from experiments.common import candidates, cli, files, packages, phases, provenance, run_selection
from experiments.common.budget import Refused
from experiments.common.settings import Settings
from experiments.common.store import Store
from experiments.common.task import Task
from experiments.compare_estimators import flags as compare_flags
from experiments.compare_estimators import matrix, output, user_problem
from experiments.compare_estimators.choose_cases import choose_budget, choose_cases, numbers_of_samples
from experiments.compare_estimators.choose_protocol import choose_protocol
from experiments.compare_estimators.choose_tasks import choose_tasks
from experiments.compare_estimators.flags import Options
from experiments.compare_estimators.measure_all import measure_all, time_all
from experiments.compare_estimators.rows import make_rows

# Flags that increase the use of memory, the most likely cause first. The error about too little memory names them.
MEMORY_FLAGS = ("num_samples", "batch_size")


def define_flags(values: flags.FlagValues) -> None:
    compare_flags.define_flags(values)
    flags.adopt_module_key_flags(compare_flags, values)  # --help shows the flags of this module as well


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Measures, compares and writes the files. Bad input ends with one sentence on stderr and exit status 1."""
    with cli.one_sentence():
        options = compare_flags.from_flags(values)
        run = _trained_run(options) if options.workdir else Settings()
    # The exact gradients are in float64. Products that an accelerator rounds would look like bias beside them.
    with jax.default_matmul_precision("float32" if run.matmul_precision == "default" else run.matmul_precision):
        if options.is_matrix:
            matrix.measure(options, lambda options: compare(options, run))
        else:
            compare(options, run)


def _trained_run(options: Options) -> Settings:
    folder, number = run_selection.choose_one(options.workdir, options.run)
    return folder.runs()[number]


def compare(options: Options, run: Settings) -> None:
    """Measures all tasks and writes the files. `run` has the settings of --workdir, or the default settings."""
    started = time.perf_counter()

    # ---- What is measured, and how
    tasks = make_tasks(options)
    task = tasks[0]
    with cli.one_sentence():
        names = candidates.choose(task, options.estimators)
        protocol = choose_protocol(options, task)
        samples = numbers_of_samples(options, task)
        budget = choose_budget(options, task)
        output.check_columns(options.columns, protocol.judge_by)
        folder = options.folder
        files.check_writable(folder, "output")

    # ---- The measurements
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
        decided |= {"num_samples": None if budget else samples}
        took = time.perf_counter() - started + store.earlier_seconds
        config = provenance.describe_measurement(dataclasses.asdict(options) | decided, took)
        files.write_json(folder / "config.json", config)


def make_tasks(options: Options) -> list[Task]:
    """The tasks to measure: one, or several that differ in parameters and data.

    Mistakes in the user's own functions keep their traceback; everything else that is wrong becomes one sentence.
    """
    users_problem = None
    if text := options.users_problem:
        with cli.one_sentence():
            make = packages.load_function(text, "problem")
        users_problem = make()
        with cli.one_sentence(user_problem.Unsuitable, NotImplementedError):
            user_problem.check(users_problem, text)
    with cli.one_sentence():
        tasks = choose_tasks(options, users_problem)
    with cli.one_sentence(NotImplementedError):  # a KL has no closed form
        _ = tasks[0].host_calls  # traces the bound
    return tasks


def is_stored(values: flags.FlagValues = flags.FLAGS) -> bool:
    """Whether measurements are stored, so that the same command continues. A user's own problem is never stored."""
    return not any(map(user_problem.is_users, values["problem"].value or []))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=is_stored, memory_flags=MEMORY_FLAGS)
