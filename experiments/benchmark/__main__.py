"""Measures the speed of training and of the laboratory. The contenders take turns in one process, and only their ratios
count, because the ratios are stable on a shared machine.

    python -m experiments.benchmark                              # everything, about half an hour on two CPU cores
    python -m experiments.benchmark --sections=flops --output=results/benchmark

epoch       Trains a 784-500-20 VAE over whole epochs of 60000 synthetic binary images with this project (make_epoch,
            flax, train.adam, the table of estimators), and with the same training written by hand in plain JAX (one
            lax.scan), numpyro (SVI in a fori_loop, without and with its loss) and torch.compile. numpyro and torch are
            left out if they are not installed. The matmul limit is the time of the step's matrix products alone, at
            the speed of a product of two 2048 x 2048 matrices.
sweep       Trains many runs in one program, side by side (vmap) or one after the other (map), and in one program for
            each run. The networks are those for the digits and for MNIST, at each batch size, and a 784-200-200-50
            IWAE with K = 50 and batch 20.
evaluation  Computes the importance-weighted bound on log p(x) with 500 samples by the network of the section epoch and
            by the network for the digits, for one run and for runs side by side.
flops       Counts the FLOP of sticking the landing and of DReG, relative to the plain pathwise gradient, with XLA.
laboratory  Times --draws gradients of each estimator with their moments, figures and bootstrap, relative to as many
            bare gradients, on the network of the section epoch with batch 128. Also reports the largest memory of the
            process.
toys        Times a million gradients of each estimator in the laboratory, on the problem `quadratic`.
command     Times whole commands, each with an empty and with a filled compilation cache: sweeps of --runs seeds of the
            digits, a sweep of six estimators, one long run and the laboratory. The ratio is their wall-clock time over
            the time that they train or draw gradients. Also counts the files and bytes that they leave.
discrete    Times a training step of a 784-200 Bernoulli VAE with each estimator, relative to leave_one_out, at equal
            numbers of evaluations of the bound.

The command writes benchmark.json and benchmark.md. Times are wall-clock times. The contenders take turns --rounds
times, and each ratio is the median over rounds of the ratio in each round.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.benchmark import commands, epoch, evaluation, gradients, sweep
from experiments.benchmark.timing import machine
from experiments.common import cli, files, measuring

# The function of each section returns the section's numbers, for benchmark.json, and its table in Markdown.
SECTIONS: dict[str, Callable[[flags.FlagValues], tuple[Any, str]]] = {
    "epoch": lambda options: epoch.measure(integers(options.batch_sizes), options.images, options.rounds),
    "sweep": lambda options: sweep.measure(integers(options.batch_sizes), integers(options.runs), options.rounds),
    "evaluation": lambda options: evaluation.measure(options.rounds),
    "flops": lambda options: gradients.flops(),
    "laboratory": lambda options: gradients.laboratory(options.draws, options.rounds),
    "toys": lambda options: gradients.toys(options.rounds),
    "command": lambda options: commands.measure(integers(options.runs)),
    "discrete": lambda options: gradients.discrete(options.evaluations, options.rounds),
}
# Flags that increase the use of memory, the most likely cause first. The error about too little memory names them.
MEMORY_FLAGS = ("batch_sizes", "runs", "images")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`."""
    flags.DEFINE_list(
        "sections", list(SECTIONS), f"Sections to measure: any of {', '.join(SECTIONS)}.", flag_values=values
    )
    flags.DEFINE_list(
        "batch_sizes", ["128", "512"], "Batch sizes for the sections epoch and sweep.", flag_values=values
    )
    flags.DEFINE_list(
        "runs", ["1", "8", "32", "128"], "Numbers of runs, for the sections sweep and command.", flag_values=values
    )
    flags.DEFINE_integer(
        "rounds", 7, "Number of rounds. In each round every contender runs once.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "images",
        60000,
        "Number of training images in an epoch, in the section epoch.",
        lower_bound=512,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "draws",
        1000,
        "Number of gradients of each estimator, in the section laboratory.",
        lower_bound=20,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "evaluations",
        4,
        "Number of evaluations of the bound for one gradient, in the section discrete.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_string("output", "results/benchmark", "Folder of benchmark.json and benchmark.md.", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the sections, and writes the files after each. Bad input ends with one sentence and exit status 1."""
    with cli.one_sentence():
        check_flags(options)
        folder = Path(options.output)
        files.check_writable(folder, "output")
    report: dict[str, Any] = {"machine": machine()}
    text = f"Machine: {machine()}\n"
    for name in options.sections:
        report[name], table = SECTIONS[name](options)
        print(table, flush=True)
        text += f"\n{table}\n"
        with cli.one_sentence(OSError):  # writes after each section, because the next section may take minutes
            files.write_json(folder / "benchmark.json", report)
            files.write_text(folder / "benchmark.md", text)


def check_flags(options: flags.FlagValues) -> None:
    """Checks the values of the flags.

    Raises:
      ValueError: If a flag has a value that no section can use.
    """
    if not options.sections or set(options.sections) - set(SECTIONS):
        raise ValueError(f"--sections takes {', '.join(SECTIONS)}")
    for name in ("batch_sizes", "runs"):
        numbers = options[name].value
        if not numbers or not all(number.isdecimal() and int(number) for number in numbers):
            raise ValueError(f"--{name} takes positive integers")
    measuring.number_of_chunks(options.draws, most=10)


def integers(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, memory_flags=MEMORY_FLAGS)
