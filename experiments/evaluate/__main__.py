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
from typing import Any

from absl import flags

from experiments.common import cli, foreign_files, phases, results, run_selection
from experiments.common.program_folder import ProgramFolder
from experiments.evaluate import annealing, evaluation
from experiments.evaluate import flags as evaluate_flags
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
    rows = []
    name = lambda item: f"{item[0].path}, runs: {len(item[1])}"
    for folder, numbers in phases.each([*programs.items()], "evaluating program", name):
        rows += evaluate(folder, numbers, options, alone=number == 1)
    if not rows:
        cli.stop(f"--workdir={options.workdir} has no run to evaluate: each of its {number} is left out")
    first, last = (choose(row["epoch"] for row in rows) for choose in (min, max))
    print(f"checkpoint {options.checkpoint}: " + (f"epoch {first}" if first == last else f"epochs {first} to {last}"))
    print(f"{results.heading(rows)}\n{results.to_markdown(rows)}")
    if options.ais_steps:
        print(annealing.describe(rows, options))


def evaluate(folder: ProgramFolder, numbers: list[int], options: Options, alone: bool) -> list[dict[str, Any]]:
    """The rows of runs of a program. Prints which runs are left out.

    A run `alone` in the command that cannot be evaluated ends the command.
    """
    with contextlib.closing(folder):
        with cli.one_sentence():
            try:
                chosen, left_out = evaluation.choose(folder, numbers, options)
            except ValueError as error:
                chosen, left_out = None, [str(error)]
            if alone and left_out:
                raise ValueError(left_out[0])
        for sentence in left_out:
            print(f"left out: {sentence}")
        with cli.one_sentence(OSError):
            return evaluation.evaluate(chosen, options) if chosen else []


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=True)
