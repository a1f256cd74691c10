"""Trains a VAE, or a sweep of VAEs, and leaves a workdir that explains itself.

    python -m experiments.train                                            # digits, one run
    python -m experiments.train --seed=0,1,2 --learning_rate=1e-3,3e-4     # six runs in one compiled program
    python -m experiments.train --dataset=mnist --data_dir=DIR --hidden=500 --latent_dim=20 --batch_size=128 --epochs=10
    python -m experiments.train --estimator=reparam,stl --objective=elbo --launcher=slurm  # two programs, a job each

The flags from --dataset to --eval_samples are the settings. A comma-separated list of values of a setting is swept;
several lists give their product. The same command, given again, continues interrupted runs and skips finished runs.

A run is the training of one model. A program is the runs that share one compiled function, and a sweep is all programs
of one command.
"""

import contextlib
from pathlib import Path

from absl import flags

from experiments.common import build, cli, files, locks, setting_flags, settings
from experiments.common.program_folder import plain
from experiments.common.settings import Settings
from experiments.train import draw, loop, multihost, results_table, slurm, step_cost, sweep_verdict
from experiments.train import flags as train_flags
from experiments.train.sweep import Program, Sweep
from vae import checkpoint

# Flags that increase the use of memory, the most likely cause first. The error about too little memory names them.
MEMORY_FLAGS = ("num_samples", "batch_size", "hidden")
# So many runs that diverged are described at the end.
MOST_DIVERGED = 3


def define_flags(values: flags.FlagValues) -> None:
    setting_flags.define_flags(values)
    train_flags.define_flags(values)
    for module in (setting_flags, train_flags):  # --help shows the flags of these modules as well
        flags.adopt_module_key_flags(module, values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    # --- Flags
    with cli.one_sentence():
        chosen = train_flags.from_flags(values)
        runs = setting_flags.from_flags(values, with_budget=chosen.budget is not None)
        if chosen.budget:
            runs = buy_samples(runs, chosen)
        check(runs, chosen)
        workdir = Path(chosen.workdir or default_workdir(runs))
        files.check_name(workdir)
        checkpoint.check_folder(workdir)
        several = multihost.is_one_of_several() if chosen.multihost is None else chosen.multihost
        if several and chosen.launcher == "slurm":
            raise ValueError(
                "--launcher=slurm submits jobs of one process each; start the command once, without srun and without"
                " --multihost, or leave out --launcher=slurm to train in these processes together"
            )
        addresses = multihost.addresses() if several else None

    # --- Jobs of a cluster, or training here
    if chosen.launcher == "slurm":
        with cli.one_sentence():
            sweep = Sweep(runs, workdir, chosen)
            sweep_verdict.check(sweep, chosen.compare)
            submitted = slurm.submit_unfinished(sweep, chosen)
        if not submitted:
            conclude(sweep, chosen)
        return
    with multihost.together(addresses), multihost.own_workdir(workdir) as workdir:
        with cli.one_sentence():
            sweep = Sweep(runs, workdir, chosen)
            sweep_verdict.check(sweep, chosen.compare)
        with contextlib.closing(sweep):
            with cli.one_sentence():
                programs = sweep.claim()
            if multihost.is_first():
                say_what_is_too_late(sweep, programs)
            diverged = sweep.diverged()
            with cli.one_sentence(OSError):
                diverged += loop.train_all(programs, chosen)
                if multihost.is_first():
                    conclude(sweep, chosen)
    if diverged:
        more = len(diverged) - MOST_DIVERGED
        cli.stop("; ".join(diverged[:MOST_DIVERGED] + [f"{more} more diverged (see results.csv)"] * (more > 0)))


def say_what_is_too_late(sweep: Sweep, unfinished: list[Program]) -> None:
    """Names the flags that would have added something to the training of runs that are finished."""
    finished = [program.folder for program in sweep.programs if program not in unfinished]
    has = {
        "measure_gradient": lambda folder: any("measure_draws" in row for row in folder.rows()),
        "tensorboard": lambda folder: (folder.path / "tensorboard").exists(),
        "profile_steps": lambda folder: (folder.path / "profile").exists(),
    }
    given = [name for name in has if getattr(sweep.options, name)]
    if late := [f"--{name}" for name in given if not all(map(has[name], finished))]:
        print(f"runs were finished without {' and '.join(late)}, and stay as they are; choose another --workdir")


def conclude(sweep: Sweep, options: train_flags.Options) -> None:
    """Writes the tables, the verdict and the pictures."""
    with locks.taking_turns(sweep.workdir):  # jobs of a cluster may end at the same time
        finished = results_table.finished_runs(sweep.workdir)
        results_table.write(sweep.workdir, finished, options.columns)
        if options.compare:
            sweep_verdict.write(sweep, finished, options.compare)
    draw.draw(sweep, finished, options.figures)


def buy_samples(runs: list[Settings], options: train_flags.Options) -> list[Settings]:
    """The runs with the numbers of samples that --budget buys, and prints them."""
    places = (options.data_dir, options.cache_dir, options.streaming)
    runs = step_cost.buy_samples(runs, options.budget, {run: build.load_data(run, *places) for run in runs})
    bought = dict.fromkeys(f"{run.estimator} K={run.num_samples}" for run in runs)
    print(f"the budget buys {', '.join(bought)}")
    return runs


def check(runs: list[Settings], options: train_flags.Options) -> None:
    """Refuses settings that contradict the other flags.

    Raises:
      ValueError: One sentence that names the flags and says what would work.
    """
    others = [run.prng for run in runs if run.prng != "threefry2x32"]
    if others and options.sweep_mode == "vmap":
        raise ValueError(
            f"--sweep_mode=vmap needs --prng=threefry2x32: under --prng={others[0]} a run of the sweep would draw other"
            " numbers than the same run alone; leave out --sweep_mode"
        )


def default_workdir(runs: list[Settings]) -> Path:
    """A folder in results/ that the same command finds again."""
    name = plain(Path(runs[0].dataset).stem)
    digest = runs[0].digest() if len(runs) == 1 else settings.digest_of(runs)
    return Path("results") / f"{name}-{digest}"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=True, memory_flags=MEMORY_FLAGS)
