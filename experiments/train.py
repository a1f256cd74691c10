"""Trains a VAE, or a sweep of them, and leaves a workdir that explains itself.

    python -m experiments.train                                            # digits, one run
    python -m experiments.train --seed=0,1,2 --learning_rate=1e-3,3e-4     # six runs in one compiled program
    python -m experiments.train --dataset=mnist --data_dir=DIR --hidden=500 --latent_dim=20 --batch_size=128 --epochs=10

Every setting is a flag, and a comma-separated list on any of them is swept; several lists give their product. The same
command again finishes what was cut off and skips what is done.
"""

import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import assess, build, cli, interrupt, results, settings, tables, workdir
from experiments.settings import Settings
from experiments.workdir import Recorder, RunFolder
from vae import checkpoint, train
from vae.datasets import Dataset

settings.define_flags()
flags.DEFINE_string("workdir", None, "folder of the results; by default results/ and a name made from the settings")
flags.DEFINE_string("data_dir", None, "folder of prepared TFDS data, or of frey_faces.npz")
flags.DEFINE_string("cache_dir", None, "folder of decoded data; by default beside the data, or the user's cache folder")
flags.DEFINE_integer("eval_every", 0, "epochs between evaluations; 0 for about 20 in a run", lower_bound=0)
flags.DEFINE_integer("checkpoint_every", 0, "epochs between checkpoints; 0 for one with each evaluation", lower_bound=0)
flags.DEFINE_integer(
    "keep",
    2,
    "newest checkpoints that stay, and with --validation_size the best of those that were evaluated",
    lower_bound=2,  # one may be damaged, and the runs of a sweep need one in common
)
flags.DEFINE_enum("sweep_mode", "auto", ["auto", "vmap", "map"], "runs of one program: side by side, or one by one")
flags.DEFINE_bool("figures", True, "draw the pictures of every run; experiments.evaluate --figures draws them later")
flags.DEFINE_bool("tensorboard", False, "write TensorBoard event files as well")
FLAGS = flags.FLAGS

# Below this many parameters a network does not fill a CPU core, and runs side by side are faster than one by one.
SMALL_NETWORK = 200_000


def main() -> None:
    with cli.one_sentence():
        runs = settings.from_flags(FLAGS)
        path = Path(FLAGS.workdir or _default_workdir(runs))
        workdir.check_writable(path)
        groups = [_Group(group, path, runs) for group in settings.programs(runs)]
        workdir.check_space(path, sum(group.checkpoint_bytes() for group in groups))
        for group in groups:
            group.claim()
    diverged = []
    with cli.one_sentence(OSError):
        for i, group in enumerate(groups):
            if group.pending and len(groups) > 1:
                print(f"program {i + 1} of {len(groups)}, runs: {len(group.pending)}, {group.describe()}")
            diverged += group.train()
        _conclude(path)
    if diverged:
        cli.stop("; ".join(diverged) + "; try a smaller --learning_rate or --clip_norm=1")


class _Group:
    """Runs that share a compiled program; made before any of them is trained, so that bad input costs no work."""

    def __init__(self, runs: list[Settings], path: Path, all_runs: list[Settings]):
        swept = [name for name in settings.FIELDS if len({getattr(run, name) for run in all_runs}) > 1]
        found = workdir.run_folders(path, all_runs, swept)
        self.runs, self.folders = runs, [found[all_runs.index(run)] for run in runs]
        self.swept, self.run = swept, runs[0]
        self.data = build.load_data(self.run, FLAGS.data_dir, FLAGS.cache_dir)
        with jax.default_matmul_precision(self.run.matmul_precision):
            self.program = build.program(self.run, self.data)

    def claim(self) -> None:
        """Makes the runs' folders, and finds those that are not finished."""
        for run, folder in zip(self.runs, self.folders, strict=True):
            folder.claim(run, self.data)
        self.pending = [(r, f) for r, f in zip(self.runs, self.folders, strict=True) if f.result() is None]

    def checkpoint_bytes(self) -> int:
        """What the checkpoints of all runs take: those that are kept, the best, and one that is being written."""
        state = jax.eval_shape(self.program.init, build.arrays(self.run))
        number = FLAGS.keep + bool(len(self.data.validation)) + 1
        return number * len(self.runs) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def describe(self) -> str:
        return (
            ", ".join(f"{n}={self.run.json()[n]}" for n in self.swept if n not in settings.ARRAYS)
            or "all settings alike"
        )

    def train(self) -> list[str]:
        """Trains and judges the pending runs; one sentence for each that diverged."""
        if not self.pending:
            return []
        with jax.default_matmul_precision(self.run.matmul_precision):
            return _train(self.program, self.data, *map(list, zip(*self.pending, strict=True)))


def _train(program: build.Program, data: Dataset, runs: list[Settings], folders: list[RunFolder]) -> list[str]:
    run, steps = runs[0], program.steps_per_epoch
    eval_every = FLAGS.eval_every or max(1, run.epochs // 20)
    checkpoint_every = FLAGS.checkpoint_every or eval_every
    values = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(build.arrays, runs))
    init = jax.jit(train.over_runs(program.init, "map"))
    done, state = _resume(jax.eval_shape(init, values), folders) or (0, init(values))
    seconds = max((row["train_seconds"] for f in folders for row in f.rows("timing.jsonl")), default=0.0)

    images = jnp.asarray(data.train)
    epoch = jax.jit(train.over_runs(program.epoch, _mode(state), shared=1), donate_argnums=0)
    epoch = epoch.lower(state, values, images).compile()
    bound, x = assess.make_bound(program.model), assess.pixels(data, assess.curve_split(data))

    # A run that failed before is at the start of that epoch, and fails there again; but if nothing is left to train ...
    failed_steps = np.where(
        (np.asarray(state.step) == done * steps) | (done < run.epochs), 0, np.asarray(state.step) + 1
    )
    with ExitStack() as stack:
        watch = stack.enter_context(interrupt.Watch())
        recorders = [stack.enter_context(Recorder(folder, FLAGS.keep, FLAGS.tensorboard)) for folder in folders]
        number, asked = done, None
        bar = tqdm(total=run.epochs * steps, initial=done * steps, unit="step", disable=not sys.stdout.isatty())
        for number in range(done + 1, run.epochs + 1):
            started = time.perf_counter()
            state, metrics = epoch(state, values, images)
            metrics = jax.device_get(metrics)
            seconds += time.perf_counter() - started
            bar.update(steps)
            bar.set_postfix_str(f"epoch {number}/{run.epochs}, bound {_mean(metrics['bound']):.2f} nats")
            failed_steps = np.where(failed_steps == 0, metrics["failed_step"], failed_steps)
            alive, asked = failed_steps == 0, watch.asked
            last = number == run.epochs or not alive.any()
            if last or number % eval_every == 0:
                for i in np.flatnonzero(alive):
                    row = {"epoch": number, "step": number * steps, "examples": number * steps * run.batch_size}
                    row |= {"split": assess.curve_split(data), "bound_nats": metrics["bound"][i].item()}
                    recorders[i].log(row | bound(_one(state.params["model"], i), x), seconds)
            if last or asked or number % checkpoint_every == 0:
                for recorder in recorders:  # all have the one before, so that a kill leaves one that all have
                    recorder.wait()
                for i, recorder in enumerate(recorders):
                    recorder.save(number, _one(state, i))
            if asked or not alive.any():
                break
        bar.close()
    if watch.asked:
        interrupt.leave(watch.asked, f" after epoch {number} of {run.epochs}; all is saved")
    judge = assess.make_judge(program.model, data, run, run.eval_samples)
    sentences = [
        _conclude_run(program, data, r, folder, _one(state, i), failed_steps[i], judge)
        for i, (r, folder) in enumerate(zip(runs, folders, strict=True))
    ]
    return [sentence for sentence in sentences if sentence]


def _conclude_run(program, data, run, folder: RunFolder, state: train.TrainState, failed_step, judge) -> str | None:
    """Writes the figures, as numbers and as pictures, of a finished run; or one sentence on where it diverged."""
    step, params = int(state.step), state.params["model"]
    finished = step == run.epochs * program.steps_per_epoch
    row = run.json() | {"status": "done" if finished else "diverged", "step": step if finished else failed_step.item()}
    if finished:
        if FLAGS.figures:
            from experiments import pictures  # matplotlib is slow to import

            pictures.draw_run(folder, data, program.model, params)
        row |= judge(params)
        if len(data.validation):
            row["validation_elbo_nats"] = folder.rows()[-1]["elbo_nats"]
    workdir.write_json(folder.path / "result.json", row)
    if not finished:
        last = f"the state of epoch {step // program.steps_per_epoch} is kept there"
        return f"{folder.path}: the loss or its gradient was not finite at step {failed_step}, {last}"
    return None


def _conclude(path: Path) -> None:
    """The tables and pictures over all runs of the workdir, and what there is to look at."""
    folders = [folder for folder in workdir.all_runs(path) if folder.result()]
    rows = [folder.result() for folder in folders]
    workdir.write_text(path / "results.csv", tables.to_csv(rows))
    table = results.to_markdown(rows)
    workdir.write_text(path / "results.md", table + "\n")
    if len(folders) > 1:
        from experiments import pictures

        pictures.draw_sweep(path / "figures", folders, results.varying(rows))
    print(f"\n{results.heading(rows)}\n{table}\n")
    print(f"pictures: {', '.join(str(p) for p in sorted((path / 'figures').glob('*.png')))}")
    if len(folders) > 1:
        print(f"          and of each run in {path / 'runs'}/*/figures")
    print(f"table of every run and setting: {path / 'results.csv'}")
    print(f"all of it on one page: python -m experiments.report --workdir={shlex.quote(str(path))}")


def _resume(like: train.TrainState, folders: list[RunFolder]) -> tuple[int, train.TrainState] | None:
    """The epoch and the state of all runs at the newest checkpoint that all of them have."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
    common = set.intersection(*(set(checkpoint.steps(folder.checkpoints)) for folder in folders))
    for number in sorted(common, reverse=True):
        found = [checkpoint.restore(folder.checkpoints, one, at=[number]) for folder in folders]
        if all(found):
            for folder in folders:
                folder.forget_after(number)
            return number, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in found))
    for folder in folders:
        folder.forget_after(0)
    return None


def _mode(state: train.TrainState) -> str:
    """How runs share a program: side by side wherever one alone would leave the device idle."""
    if FLAGS.sweep_mode != "auto":
        return FLAGS.sweep_mode
    runs = len(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    small = parameters < SMALL_NETWORK
    return "vmap" if runs > 1 and (small or jax.default_backend() != "cpu") else "map"


def _mean(bounds: np.ndarray) -> float:
    """Over the runs that are finite; NaN if none is."""
    finite = bounds[np.isfinite(bounds)]
    return finite.mean() if len(finite) else np.nan


def _one(tree, i: int):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _default_workdir(runs: list[Settings]) -> Path:
    """A name that the same command finds again."""
    name = "".join(c if c.isalnum() else "-" for c in Path(runs[0].dataset).stem)
    digest = runs[0].digest() if len(runs) == 1 else settings.digest_of(runs)
    return Path("results") / f"{name}-{digest}"


if __name__ == "__main__":
    cli.run(main)
