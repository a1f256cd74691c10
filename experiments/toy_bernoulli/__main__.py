"""Trains a toy problem with each estimator, and records the exact loss and the variance of the gradient.

    python -m experiments.toy_bernoulli                        # one coin, E (b - t)^2, t = 0.45, 0.49, 0.499
    python -m experiments.toy_bernoulli --toy=categorical      # three bits as one variable of eight classes
    python -m experiments.toy_bernoulli --toy=table            # the ELBO of six bits that depend on each other
    python -m experiments.toy_bernoulli --toy=polynomial --steps=1000 --records=41 --estimators=reinmax,leave_one_out

The toy `polynomial` has 128 coins at the powers 1.5, 2 and 3. It takes hours with every estimator and 5000 steps, and
20 minutes with 1000 steps and the eight estimators of `scripts/reproduce_toys.sh`. Each other toy takes two minutes,
plus the time to compile.

All estimators, seeds and points of a toy run in one compiled program. The loss is the exact expectation at the current
parameters. The variance is the trace of the gradient's covariance at the same parameters, over fresh draws and with the
estimator's own parameters frozen. Every estimator gets --num_samples samples, or the least number that it works with.
Some estimators evaluate f at further samples, relaxed or conditional; these evaluations are not counted here, but
`experiments.compare_estimators --problem=coins --budget=evaluations:N` counts them.

The command writes curves.csv, results.csv, results.md, config.json and figures/toy.png (and .pdf) into --output. It
also stores the curves in store/, so that the same command with the same code does not train again.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from experiments.common import candidates, cli, files, problems, provenance, store
from experiments.common.problems import Problem
from experiments.common.task import Task
from experiments.toy_bernoulli import output
from experiments.toy_bernoulli.training import Training, train_all

# For each toy, a function from --batch_size (None for the toy's own batch size) to the points of the toy.
TOYS: dict[str, Callable[[int | None], list[Problem]]] = {
    "bernoulli": lambda batch_size: [
        problems.coins(target, batch_size=batch_size or 1) for target in (0.45, 0.49, 0.499)
    ],
    "polynomial": lambda batch_size: [
        problems.coins(0.45, power, dimensions=128, batch_size=batch_size or 64) for power in (1.5, 2, 3)
    ],
    "categorical": lambda batch_size: [problems.three_bits(batch_size or 1)],
    "table": lambda batch_size: [problems.table(batch_size=batch_size or 1)],
}
# Flags that increase the use of memory, the most likely cause first. The error about too little memory names them.
MEMORY_FLAGS = ("batch_size", "num_samples", "draws", "seeds")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`."""
    flags.DEFINE_enum("toy", "bernoulli", list(TOYS), "Toy problem to train.", flag_values=values)
    flags.DEFINE_list(
        "estimators",
        None,
        "Estimators, comma-separated, with options as name:option=value. The default is every estimator that fits.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_samples",
        2,
        "Number of samples K. An estimator that needs more gets its least number.",
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Number of independent repetitions of the toy in a step. The default is 1, and 64 for polynomial.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps", 5000, "Number of Adam steps; 1000 are enough for polynomial.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_integer(
        "records",
        101,
        "Number of steps at which the loss and the variance are recorded, including the first and the last step.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds", 5, "Number of runs of each estimator, with seeds 0, 1, and so on.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float("learning_rate", 0.01, "Learning rate of Adam, above 0.", flag_values=values)
    flags.DEFINE_integer(
        "draws",
        None,
        "Number of gradients behind each variance. The default is 256, and 16 for polynomial with its many coins.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "Folder of the results. The default is results/toy-NAME.", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    """Trains, and writes the tables and the picture. Bad input ends with one sentence and exit status 1."""
    started = time.perf_counter()

    # ---- What is trained
    with cli.one_sentence():
        check_flags(options)
        training = Training(
            num_samples=options.num_samples,
            steps=options.steps,
            records=options.records,
            seeds=options.seeds,
            learning_rate=options.learning_rate,
            draws=options.draws or (16 if options.toy == "polynomial" else 256),
        )
        folder = Path(options.output or f"results/toy-{options.toy}")
        files.check_writable(folder, "output")
        points = TOYS[options.toy](options.batch_size)
        names = choose_estimators(options, Task(points[0], "elbo"), training)

    # ---- The training, or the stored curves
    with cli.one_sentence(OSError):
        curves_store = store.Store(folder / "store")
        digest = store.digest(
            toy=options.toy, batch_size=options.batch_size, estimators=names, training=training._asdict()
        )
        curves = curves_store.recall(digest, lambda: train_all(points, names, training))
        earlier = curves_store.earlier_seconds
        if earlier:
            print(
                f"{curves_store.folder} holds the curves ({earlier:.0f} seconds of training), so nothing is trained\n"
            )

        # ---- The files
        output.write(folder, points, curves, training)
        seconds = time.perf_counter() - started + earlier
        config = provenance.describe_measurement(cli.given(define_flags, options), seconds)
        files.write_json(folder / "config.json", config)


def check_flags(options: flags.FlagValues) -> None:
    """Checks the values of the flags.

    Raises:
      ValueError: If a flag has a bad value, or two flags do not go together.
    """
    if options.estimators == []:
        raise ValueError("--estimators is empty; leave it out for every estimator that fits")
    if not 0 < options.learning_rate < math.inf:
        raise ValueError(f"--learning_rate={options.learning_rate} is not a number above 0")
    if options.steps % (options.records - 1):
        raise ValueError(
            f"--steps={options.steps} must be a multiple of --records minus 1, which is {options.records - 1}"
        )


def choose_estimators(options: flags.FlagValues, task: Task, training: Training) -> list[str]:
    """The estimators to train: those that work with this toy and their numbers of samples.

    Raises:
      ValueError: If an estimator of --estimators is unknown or does not work.
    """

    def possible(name: str) -> str:
        task.cost("evaluations", name, training.samples(name))
        return name

    names = candidates.choose(task, options.estimators)
    return candidates.keep_possible(possible, zip(names), strict=options.estimators is not None)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, memory_flags=MEMORY_FLAGS)
