"""Evaluates finished runs again from their checkpoints, with as many samples as asked for.

    python -m experiments.evaluate --workdir=results/quickstart --eval_samples=5000
    python -m experiments.evaluate --workdir=DIR --checkpoint=best     # by the validation bound; or an epoch's number
    python -m experiments.evaluate --workdir=DIR --run=seed=3,estimator=relax     # some runs of a sweep
    python -m experiments.evaluate --workdir=DIR --ais_steps=1000                 # log p(x) from below and above

Prints -log p(x), ELBO, rate and distortion of the test set. Appends them, with the current commit and versions, to
evaluations.jsonl in each program's folder, which `experiments.report` shows. Earlier figures with as many samples are
read from there, unless --again is given. A printed sentence names their commit and versions if they are not the present
ones.

Runs that diverged or are not finished are left out, and named. If --checkpoint is the number of an epoch, unfinished
runs that have reached this epoch are evaluated as well.
"""

import contextlib

from absl import flags

from experiments.common import cli, foreign_files, phases, results, run_selection
from experiments.common.program_folder import ProgramFolder
from experiments.evaluate import annealing, evaluation
from experiments.evaluate import flags as evaluate_flags
from experiments.evaluate.evaluation import Row
from experiments.evaluate.flags import Options


def define_flags(values: flags.FlagValues) -> None:
    evaluate_flags.define_flags(values)
    flags.adopt_module_key_flags(evaluate_flags, values)  # --help shows the flags of this module as well


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    with cli.one_sentence():
        options = evaluate_flags.from_flags(values)
        foreign_files.refuse_links(options.workdir)
        programs = run_selection.choose(options.workdir, options.run)
    number = sum(map(len, programs.values()))
    rows: list[Row] = []
    left_out: list[str] = []
    name = lambda item: f"{item[0].path}, runs: {len(item[1])}"
    for folder, numbers in phases.each([*programs.items()], "evaluating program", name):
        figures, reasons = evaluate(folder, numbers, options)
        rows += figures
        left_out += reasons
        if number > 1:
            for sentence in reasons:
                print(f"left out: {sentence}")
    if not rows:
        cli.stop(left_out[0] if number == 1 else f"none of the {number} runs can be evaluated: {left_out[0]}")
    first, last = (choose(row["epoch"] for row in rows) for choose in (min, max))
    print(f"checkpoint {options.checkpoint}: " + (f"epoch {first}" if first == last else f"epochs {first} to {last}"))
    print(f"{results.heading(rows)}\n{results.to_markdown(rows)}")
    if options.ais_steps:
        print(annealing.describe(rows, options))


def evaluate(folder: ProgramFolder, numbers: list[int], options: Options) -> tuple[list[Row], list[str]]:
    """The rows of runs of a program, and sentences about those that are left out."""
    with contextlib.closing(folder):
        with cli.one_sentence():
            try:
                chosen, left_out = evaluation.choose(folder, numbers, options)
            except ValueError as error:
                chosen, left_out = None, [cli.with_flags(str(error), flags.FLAGS)]
        with cli.one_sentence(OSError):
            return evaluation.evaluate(chosen, options) if chosen else [], left_out


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=True)
