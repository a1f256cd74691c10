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
import dataclasses
from typing import Any

from absl import flags

from experiments.common import cli, foreign_files, phases, results, run_selection
from experiments.common.program_folder import ProgramFolder
from experiments.evaluate import annealing, evaluation
from experiments.evaluate.options import Options
from vae import ais


def define_flags(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `Options`."""
    string = lambda name, default, help: flags.DEFINE_string(name, default, help, flag_values=values)
    string("workdir", None, "Folder of a run or of a sweep, as experiments.train left it.")
    string("run", None, run_selection.HELP)
    string(
        "data_dir",
        None,
        "Folder of prepared TFDS data or of frey_faces.npz; by default the folder that the training read, if it"
        " still exists.",
    )
    string("cache_dir", None, "Folder of decoded data; by default beside the data or in the user's cache folder.")
    string("checkpoint", "latest", "Checkpoint: latest, best (by the validation bound) or the number of an epoch.")
    flags.DEFINE_integer(
        "eval_samples",
        5000,
        "Number K of samples of z for each image in the importance-weighted -log p(x).",
        lower_bound=1,
        flag_values=values,
    )
    integer = lambda name, default, help, least: flags.DEFINE_integer(
        name, default, help, lower_bound=least, flag_values=values
    )
    integer("ais_steps", 0, "Number of transitions of annealed importance sampling; 0 for none.", 0)
    integer("ais_chains", 16, "Number of annealed chains of each image.", 1)
    integer("ais_leapfrog", 10, "Number of leapfrog steps of a transition.", 1)
    integer("ais_images", 100, "Number of test images to anneal, and of images that are simulated from the model.", 1)
    start = "Distribution at which the annealed chains start: the prior, or q(z|x)."
    flags.DEFINE_enum("ais_start", "prior", ais.STARTS, start, flag_values=values)
    again = "Whether to evaluate again what was evaluated before with as many samples."
    flags.DEFINE_bool("again", False, again, flag_values=values)
    flags.DEFINE_bool("figures", False, "Whether to draw the pictures of each run again as well.", flag_values=values)
    flags.mark_flag_as_required("workdir", values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    options = Options(**{field.name: values[field.name].value for field in dataclasses.fields(Options)})
    with cli.one_sentence():
        for name in ("ais_chains", "ais_leapfrog", "ais_images", "ais_start"):
            if values[name].present and not options.ais_steps:
                raise ValueError(f"--{name} needs --ais_steps, the number of transitions")
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
