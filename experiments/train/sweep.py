"""The training of all runs of one `python -m experiments.train`: groups of runs that share a compiled program, and what
each of them leaves in the workdir. The flags are that command's.
"""

import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.common import build, checks, cli, files, locks, results, settings, tables
from experiments.common import run_folder as workdir
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.train import loop as epochs
from experiments.train import multihost
from experiments.train import slurm as launch
from experiments.train.profiling import Profile
from vae import checkpoint

FLAGS = flags.FLAGS


def train_all(runs: list[Settings], path: Path) -> None:
    """Trains what is not finished of `runs`, and writes the tables and pictures of the workdir `path`.

    Exits with one sentence on bad input, before any training, and on runs that diverged, when all is done.
    """
    with ExitStack() as stack:
        if not multihost.is_first():  # what it writes, a few small files, is thrown away
            path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _train_all(runs, path)


def _train_all(runs: list[Settings], path: Path) -> None:
    with cli.one_sentence():
        programs = list(settings.programs(runs))
        if FLAGS.program > len(programs):
            raise ValueError(f"--program={FLAGS.program} does not exist, the sweep has {len(programs)}")
        chosen = range(len(programs)) if FLAGS.program == 0 else [FLAGS.program - 1]
        folders, swept = _folders(path, runs), _swept(runs)
        groups = [_Group({run: folders[run] for run in programs[i]}, swept) for i in chosen]
        files.check_writable(path)
        checks.refuse_links(path)
        for group in groups:
            group.claim()
        _tell_of_other_code(groups)
        if multihost.is_first():
            files.check_space(path, sum(group.checkpoint_bytes() for group in groups))
        parts = []
        for i, group in zip(chosen, groups, strict=True):
            parts += group.parts(f"program {i + 1} of {len(programs)}, " if len(programs) > 1 else "")
    diverged = [sentence for group in groups for sentence in group.diverged]
    with cli.one_sentence(OSError):
        diverged += epochs.train_all(parts)
        if multihost.is_first():
            _conclude(path, runs)
        multihost.wait_for_all()
    if diverged:
        cli.stop("; ".join(diverged) + "; try a smaller --learning_rate or --clip_norm=1")


def submit_all(runs: list[Settings], path: Path) -> None:
    """Submits each program that is not finished as a job, which is this command with the program's number, and returns.

    Exits with one sentence on bad input, before anything is submitted.
    """
    with cli.one_sentence():
        files.check_writable(path)
        checks.refuse_links(path)
        folders, swept = _folders(path, runs), _swept(runs)
        finished = {run for run, folder in folders.items() if folder.belongs_to(run) and folder.result()}
        command = [sys.executable, *sys.orig_argv[1:], "--launcher=local", f"--workdir={path.resolve()}"]
        programs, jobs = list(settings.programs(runs)), []
        for number, group in enumerate(programs, 1):
            if not finished.issuperset(group):
                mine = {run: folders[run] for run in group}
                title = f"program {number} of {len(programs)}, {_Group(mine, swept).describe()}"
                words = [*command, f"--program={number}"]
                job = launch.Command(words, [str(folder.checkpoints.resolve()) for folder in mine.values()])
                jobs.append(launch.Job(title, settings.digest_of(group), job))
        parameters = {
            "timeout_min": FLAGS.slurm_time,
            "cpus_per_task": FLAGS.slurm_cpus,
            "gpus_per_node": FLAGS.slurm_gpus or None,
            "mem_gb": FLAGS.slurm_mem_gb,
            "slurm_partition": FLAGS.slurm_partition,
            "slurm_account": FLAGS.slurm_account,
        }
        launch.submit_missing(jobs, path / "slurm", parameters)
    if not jobs:
        _conclude(path, runs)


class _Group:
    """Runs that share a compiled program; made before any of them is trained, so that bad input costs no work."""

    def __init__(self, folders: dict[Settings, RunFolder], swept: list[str]):
        self.runs, self.folders, self.swept = list(folders), list(folders.values()), swept
        self.run = self.runs[0]
        self.data = build.load_data(self.run, FLAGS.data_dir, FLAGS.cache_dir, FLAGS.streaming)
        size = np.array(self.data.train.nbytes > build.max_bytes(FLAGS.streaming))
        self.streamed = bool(multihost.from_first(size))
        with jax.default_matmul_precision(self.run.matmul_precision):
            self.program = build.program(self.run, self.data)
        self.profile = Profile(
            FLAGS.profile_steps, self.folders[0].path / "profile", self.program.steps_per_epoch, self.run.epochs
        )

    def claim(self) -> None:
        """Makes the runs' folders, and finds those that are not finished, and those that diverged before."""
        for run, folder in zip(self.runs, self.folders, strict=True):
            folder.claim(run, self.data)
        results = [folder.result() for folder in self.folders]
        self.diverged = [
            f"{folder.path}: not finite at step {row['step']} when it was trained; delete it to train it"
            " again with other code"
            for folder, row in zip(self.folders, results, strict=True)
            if row and row["status"] == "diverged"
        ]
        unfinished = multihost.from_first(np.array([row is None for row in results]))
        self.pending = [(self.runs[i], self.folders[i]) for i in np.flatnonzero(unfinished)]

    def checkpoint_bytes(self) -> int:
        """What the checkpoints of the pending runs take beside those that are there: those that are kept, the best,
        and one that is being written."""
        state = jax.eval_shape(self.program.init, build.arrays(self.run))
        number = FLAGS.keep + bool(len(self.data.validation)) + 1
        wanted = [max(0, number - len(checkpoint.steps(folder.checkpoints))) for _, folder in self.pending]
        return sum(wanted) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def describe(self) -> str:
        return (
            ", ".join(f"{n}={self.run.json()[n]}" for n in self.swept if n not in settings.ARRAYS)
            or "all settings alike"
        )

    def parts(self, number: str) -> list[epochs.Part]:
        """The pending runs by where they go on: those that began together, and those that a larger sweep adds, which
        would take the others back to the start. `number`, the program's, is empty where it is the only one."""
        steps = [set(checkpoint.steps(folder.checkpoints)) for _, folder in self.pending]
        begun = [(folder.path / "metrics.jsonl").exists() for _, folder in self.pending]
        trained = [found for found, b in zip(steps, begun, strict=True) if b]
        apart = trained and not set.intersection(*trained) and max(map(len, trained)) > 1
        newest = [max(found, default=0) if apart else 0 for found in steps]
        keys = multihost.from_first(np.array([n if b else -1 for n, b in zip(newest, begun, strict=True)], np.int64))
        return [self._part(np.flatnonzero(keys == key), number) for key in sorted(set(keys.tolist()))[::-1]]

    def _part(self, which: np.ndarray, number: str) -> epochs.Part:
        runs, folders = map(list, zip(*(self.pending[i] for i in which), strict=True))
        title = number and f"{number}runs: {len(runs)}, {self.describe()}"
        return epochs.Part(title, self.program, self.data, self.streamed, runs, folders, self.profile)


def _tell_of_other_code(groups: list[_Group]) -> None:
    """Says which runs were begun or trained by other code than this: a run is known by its settings, not its code."""
    folders = [folder for group in groups for folder in group.folders]
    pending = {folder.path for group in groups for _, folder in group.pending}
    other = [folder for folder in folders if not folder.has_this_code()]
    if trained := [folder for folder in other if folder.path not in pending]:
        print(
            f"{len(trained)} of {len(folders)} runs were trained by other code than there is now, and stay as they are;"
            " another --workdir trains them anew"
        )
    if begun := [folder for folder in other if folder.path in pending and folder.rows()]:
        print(
            f"{len(begun)} of {len(folders)} runs were begun by other code and go on by that of now (see config.json)"
        )
        for folder in begun:
            folder.record_change_of_code()


def _conclude(path: Path, runs: list[Settings]) -> None:
    """The tables and pictures over all runs of the workdir, and what there is to look at.

    Jobs that end at the same time take turns, so that the last one sees all results; it draws, if `runs` are all there.
    """
    with locks.taking_turns(path):
        folders, rows = _finished(path)
        files.write_text(path / "results.csv", tables.to_csv(rows))
        table = results.to_markdown(rows)
        files.write_text(path / "results.md", table + "\n")
        if len(folders) > 1 and all(folder.result() for folder in _folders(path, runs).values()):
            from experiments.common import pictures

            pictures.draw_sweep(path / "figures", folders, results.varying(rows))
    print(f"\n{results.heading(rows)}\n{table}\n")
    if drawn := sorted((path / "figures").glob("*.png")):
        print(f"pictures: {', '.join(map(str, drawn))}")
    if len(folders) > 1:
        print(f"          and of each run in {path / 'runs'}/*/figures")
    print(f"table of every run and setting: {path / 'results.csv'}")
    print(f"all of it on one page: python -m {cli.module('report')} --workdir={shlex.quote(str(path))}")


def _finished(path: Path) -> tuple[list[RunFolder], list[dict[str, Any]]]:
    """The runs of the workdir that have a result, and their rows; says which of another version are left out."""
    folders, rows = [], []
    for folder in workdir.all_runs(path):
        try:
            row = folder.result()
        except ValueError as error:
            print(f"left out of the tables: {error}")
            continue
        if row:
            folders.append(folder)
            rows.append(row)
    return folders, rows


def _folders(path: Path, runs: list[Settings]) -> dict[Settings, RunFolder]:
    """Where each run lives."""
    return dict(zip(runs, workdir.run_folders(path, runs, _swept(runs)), strict=True))


def _swept(runs: list[Settings]) -> list[str]:
    """The settings in which the runs differ."""
    return [name for name in settings.FIELDS if len({getattr(run, name) for run in runs}) > 1]
