"""The training of all runs of one `python -m experiments.train`: groups of runs that share a compiled program, and what
each of them leaves in the workdir. The flags are that command's.
"""

import functools
import shlex
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from tqdm import tqdm

from experiments import assess, build, cli, interrupt, launch, multihost, results, settings, tables, untrusted, workdir
from experiments.profiling import Profile
from experiments.settings import Settings
from experiments.workdir import Recorder, RunFolder, Silent
from vae import checkpoint, mesh, streaming, train
from vae.datasets import Dataset

FLAGS = flags.FLAGS

# Below this many parameters a network does not fill a CPU core, and runs side by side are faster than one by one.
SMALL_NETWORK = 200_000


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
        groups = [_Group(programs[i], path, runs) for i in chosen]
        workdir.check_writable(path)
        untrusted.refuse_links(path)
        for group in groups:
            group.claim()
        if multihost.is_first():
            workdir.check_space(path, sum(group.checkpoint_bytes() for group in groups))
    diverged = []
    with cli.one_sentence(OSError):
        for i, group in zip(chosen, groups, strict=True):
            if group.pending and len(programs) > 1:
                print(f"program {i + 1} of {len(programs)}, runs: {len(group.pending)}, {group.describe()}")
            diverged += group.train()
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
        workdir.check_writable(path)
        untrusted.refuse_links(path)
        folders = workdir.run_folders(path, runs, _swept(runs))
        finished = {run for run, folder in zip(runs, folders, strict=True) if folder.result()}
        command = [sys.executable, "-m", "experiments.train", *sys.argv[1:]]
        command += ["--launcher=local", f"--workdir={path.resolve()}"]
        programs, jobs = list(settings.programs(runs)), []
        for number, group in enumerate(programs, 1):
            if not finished.issuperset(group):
                title = f"program {number} of {len(programs)}, {_Group(group, path, runs).describe()}"
                jobs.append(launch.Job(title, settings.digest_of(group), [*command, f"--program={number}"]))
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

    def __init__(self, runs: list[Settings], path: Path, all_runs: list[Settings]):
        self.swept = _swept(all_runs)
        found = workdir.run_folders(path, all_runs, self.swept)
        self.runs, self.folders = runs, [found[all_runs.index(run)] for run in runs]
        self.run = runs[0]
        self.data = build.load_data(self.run, FLAGS.data_dir, FLAGS.cache_dir, FLAGS.streaming)
        with jax.default_matmul_precision(self.run.matmul_precision):
            self.program = build.program(self.run, self.data)
        self.profile = Profile(
            FLAGS.profile_steps, self.folders[0].path / "profile", self.program.steps_per_epoch, self.run.epochs
        )

    def claim(self) -> None:
        """Makes the runs' folders, and finds those that are not finished."""
        for run, folder in zip(self.runs, self.folders, strict=True):
            folder.claim(run, self.data)
        unfinished = multihost.from_first(np.array([folder.result() is None for folder in self.folders]))
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

    def train(self) -> list[str]:
        """Trains and judges the pending runs; one sentence for each that diverged."""
        with self.profile, jax.default_matmul_precision(self.run.matmul_precision):
            sentences = []
            for part in self._parts():
                sentences += _train(self.program, self.data, *map(list, zip(*part, strict=True)), self.profile)
            return sentences

    def _parts(self) -> list[list[tuple[Settings, RunFolder]]]:
        """The pending runs by where they go on: those that began together, and those that a larger sweep adds, which
        would take the others back to the start."""
        steps = [set(checkpoint.steps(folder.checkpoints)) for _, folder in self.pending]
        begun = [(folder.path / "metrics.jsonl").exists() for _, folder in self.pending]
        trained = [found for found, b in zip(steps, begun, strict=True) if b]
        apart = trained and not set.intersection(*trained) and max(map(len, trained)) > 1
        newest = [max(found, default=0) if apart else 0 for found in steps]
        keys = multihost.from_first(np.array([n if b else -1 for n, b in zip(newest, begun, strict=True)], np.int64))
        return [[self.pending[i] for i in np.flatnonzero(keys == key)] for key in sorted(set(keys.tolist()))[::-1]]


def _train(
    program: build.Program, data: Dataset, runs: list[Settings], folders: list[RunFolder], profile: Profile
) -> list[str]:
    run, steps = runs[0], program.steps_per_epoch
    eval_every = FLAGS.eval_every or max(1, run.epochs // 20)
    checkpoint_every = FLAGS.checkpoint_every or eval_every
    devices = mesh.make(len(runs), run.batch_size)
    if jax.device_count() > 1:
        print(mesh.describe(devices, len(runs), run.batch_size))
    values = mesh.over_runs_of(devices, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(build.arrays, runs)))
    init = jax.jit(train.over_runs(program.init, "map", over=devices))
    state = init(values)
    mode = _mode(state, devices)
    if multihost.from_first(np.array(data.train.nbytes > build.max_bytes(FLAGS.streaming))):
        epoch = streaming.make_epoch(program.order, program.chunk, data.train, mode, devices)
    else:
        images = mesh.everywhere(devices, data.train)
        epoch = jax.jit(train.over_runs(program.epoch, mode, shared=1, over=devices), donate_argnums=0)
        compiled = epoch.lower(state, values, images).compile()
        needed, free = mesh.memory(devices, compiled)
        if len(runs) > 1 and multihost.from_first(np.array(needed > free)):
            sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
            print(f"{len(runs)} runs at once need {sizes}: first one half, then the other")
            del state, values, images, compiled, epoch
            half = len(runs) // 2
            first = _train(program, data, runs[:half], folders[:half], profile)
            return first + _train(program, data, runs[half:], folders[half:], profile)
        epoch = functools.partial(_with, compiled, images)
    with cli.one_sentence():
        found = _resume(jax.eval_shape(init, values), folders, devices)
    done, state = found or (0, state)
    seconds = max((row["train_seconds"] for f in folders for row in f.rows("timing.jsonl")), default=0.0)
    one = functools.partial(mesh.run_of, devices)
    bound, x = assess.make_bound(program.judged), assess.pixels(data, assess.curve_split(data))

    # A run that failed before is at the start of that epoch, and fails there again; but if nothing is left to train ...
    step = mesh.fetch(devices, state.step)
    failed_steps = np.where((step == done * steps) | (done < run.epochs), 0, step + 1)
    with ExitStack() as stack:
        watch = stack.enter_context(interrupt.Watch())
        recorder = functools.partial(Recorder, keep=FLAGS.keep, tensorboard=FLAGS.tensorboard)
        recorders = [stack.enter_context((recorder if multihost.is_first() else Silent)(folder)) for folder in folders]
        number, asked = done, None
        bar = tqdm(total=run.epochs * steps, initial=done * steps, unit="step", disable=not sys.stdout.isatty())
        for number in range(done + 1, run.epochs + 1):
            started = time.perf_counter()
            with profile.epoch(number):
                state, metrics = epoch(state, values)
                metrics = mesh.fetch(devices, metrics)
            seconds += time.perf_counter() - started
            bar.update(steps)
            bar.set_postfix_str(f"epoch {number}/{run.epochs}, bound {_mean(metrics['bound']):.2f} nats")
            failed_steps = np.where(failed_steps == 0, metrics["failed_step"], failed_steps)
            alive, asked = failed_steps == 0, multihost.asked_of_any(watch.asked)
            last = number == run.epochs or not alive.any()
            if last or number % eval_every == 0:
                for i in np.flatnonzero(alive):
                    row = {"epoch": number, "step": number * steps, "examples": number * steps * run.batch_size}
                    row |= {"split": assess.curve_split(data), "bound_nats": metrics["bound"][i].item()}
                    recorders[i].log(row | bound(one(state.params["model"], i), x), seconds)
            if last or asked or number % checkpoint_every == 0:
                for recorder in recorders:  # all have the one before, so that a kill leaves one that all have
                    recorder.wait()
                for i, recorder in enumerate(recorders):
                    recorder.save(number, one(state, i))
            if asked or not alive.any():
                break
        bar.close()
    if asked := multihost.asked_of_any(watch.asked or asked):
        multihost.wait_for_all()
        interrupt.leave(asked, f" after epoch {number} of {run.epochs}; all is saved")
    judge = assess.make_judge(program.judged, data, run, run.eval_samples)
    sentences = []
    for i, (r, folder) in enumerate(zip(runs, folders, strict=True)):
        final = one(state, i)
        if multihost.is_first():
            sentences.append(_conclude_run(program, data, r, folder, final, failed_steps[i], judge))
    return [sentence for sentence in sentences if sentence]


def _conclude_run(program, data, run, folder: RunFolder, state: train.TrainState, failed_step, judge) -> str | None:
    """Writes the figures, as numbers and as pictures, of a finished run; or one sentence on where it diverged."""
    step, params = int(state.step), state.params["model"]
    finished = step == run.epochs * program.steps_per_epoch
    row = run.json() | {"status": "done" if finished else "diverged", "step": step if finished else failed_step.item()}
    if finished:
        if FLAGS.figures:
            from experiments import pictures  # matplotlib is slow to import

            pictures.draw_run(folder, data, program.judged, params)
        row |= judge(params)
        if len(data.validation):
            row["validation_elbo_nats"] = folder.rows()[-1]["elbo_nats"]
    workdir.write_json(folder.path / "result.json", row)
    if not finished:
        last = f"the state of epoch {step // program.steps_per_epoch} is kept there"
        return f"{folder.path}: the loss, or the gradient before it, was not finite at step {failed_step}, {last}"
    return None


def _conclude(path: Path, runs: list[Settings]) -> None:
    """The tables and pictures over all runs of the workdir, and what there is to look at.

    Jobs that end at the same time take turns, so that the last one sees all results; it draws, if `runs` are all there.
    """
    with workdir.alone(path):
        folders = [folder for folder in workdir.all_runs(path) if folder.result()]
        rows = [folder.result() for folder in folders]
        workdir.write_text(path / "results.csv", tables.to_csv(rows))
        table = results.to_markdown(rows)
        workdir.write_text(path / "results.md", table + "\n")
        if len(folders) > 1 and all(folder.result() for folder in workdir.run_folders(path, runs, _swept(runs))):
            from experiments import pictures

            pictures.draw_sweep(path / "figures", folders, results.varying(rows))
    print(f"\n{results.heading(rows)}\n{table}\n")
    if drawn := sorted((path / "figures").glob("*.png")):
        print(f"pictures: {', '.join(map(str, drawn))}")
    if len(folders) > 1:
        print(f"          and of each run in {path / 'runs'}/*/figures")
    print(f"table of every run and setting: {path / 'results.csv'}")
    print(f"all of it on one page: python -m experiments.report --workdir={shlex.quote(str(path))}")


def _swept(runs: list[Settings]) -> list[str]:
    """The settings in which the runs differ."""
    return [name for name in settings.FIELDS if len({getattr(run, name) for run in runs}) > 1]


def _resume(like: train.TrainState, folders: list[RunFolder], devices: Mesh) -> tuple[int, train.TrainState] | None:
    """The epoch and the state of all runs at the newest checkpoint that all of them have."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
    common = set.intersection(*(set(checkpoint.steps(folder.checkpoints)) for folder in folders))
    number, state = 0, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    for candidate in sorted(common, reverse=True):
        found = [checkpoint.restore(folder.checkpoints, one, at=[candidate]) for folder in folders]
        if all(found):
            number, state = candidate, jax.tree.map(lambda *leaves: np.stack(leaves), *(state for _, state in found))
            break
    number = int(multihost.from_first(np.int32(number)))
    for folder in folders:
        if common and not number:  # the fault may be the disk's, or pass
            folder.set_checkpoints_aside()
        folder.forget_after(number)
    return (number, mesh.over_runs_of(devices, multihost.from_first(state))) if number else None


def _with(epoch, images, state: train.TrainState, values) -> tuple[train.TrainState, dict]:
    return epoch(state, values, images)


def _mode(state: train.TrainState, devices: Mesh) -> str:
    """How runs share a program: side by side wherever one alone would leave the device idle."""
    if FLAGS.sweep_mode != "auto":
        return FLAGS.sweep_mode
    runs = len(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    small = parameters < SMALL_NETWORK
    return "vmap" if runs > devices.shape["run"] and (small or jax.default_backend() != "cpu") else "map"


def _mean(bounds: np.ndarray) -> float:
    """Over the runs that are finite; NaN if none is."""
    finite = bounds[np.isfinite(bounds)]
    return finite.mean() if len(finite) else np.nan
