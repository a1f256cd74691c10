"""Runs of one program that train together, from where they are to their end: epochs, evaluations, checkpoints, results.
The flags are those of `python -m experiments.train`.
"""

import collections
import functools
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from tqdm import tqdm

from experiments.common import assess, build, cli, files, interrupt
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.train import multihost
from experiments.train.profiling import Profile
from experiments.train.recorder import Recorder, SilentRecorder
from vae import checkpoint
from vae import train as training
from vae.data import Dataset
from vae.devices import mesh, streaming

FLAGS = flags.FLAGS

# Below this many parameters a network does not fill a CPU core, and runs side by side are faster than one by one: with
# 34,000 by up to a quarter, with 424,000 by nothing, and with 814,000 they are slower (README, Speed).
SMALL_NETWORK = 200_000


class Part(NamedTuple):
    """Runs of one program that train together.

    Attributes:
      title: printed when its turn comes; empty for none.
      streamed: whether their training images are read while they train, and not before.
    """

    title: str
    program: build.Program
    data: Dataset
    streamed: bool
    runs: list[Settings]
    folders: list[RunFolder]
    profile: Profile

    def halves(self) -> list["Part"]:
        half = len(self.runs) // 2
        halves = [(self.runs[at], self.folders[at]) for at in (slice(half), slice(half, None))]
        return [self._replace(title="", runs=runs, folders=folders) for runs, folders in halves]


def train_all(parts: list[Part]) -> list[str]:
    """Trains and judges one part after the other; one sentence for each run that diverged.

    While a part is judged, the next one's program compiles in a thread: not while runs train, whose seconds are
    compared, nor for an accelerator, on which the compiler measures kernels.
    """
    waiting, sentences, compiling = collections.deque(parts), [], None
    ahead = jax.default_backend() == "cpu" and jax.process_count() == 1
    with ThreadPoolExecutor(1) as thread:
        while waiting:
            part = waiting.popleft()
            if part.title:
                print(part.title)
            compiled, compiling = compiling.result() if compiling else prepare(part), None
            needed, free = compiled.memory()
            if len(part.runs) > 1 and multihost.from_first(np.array(needed > free)):
                sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
                print(f"{len(part.runs)} runs at once need {sizes}: first one half, then the other")
                waiting.extendleft(reversed(part.halves()))
                continue
            precision = part.runs[0].matmul_precision
            with part.profile, jax.default_matmul_precision(precision):
                trained = _train(compiled)
            if ahead and waiting:
                compiling = thread.submit(prepare, waiting[0])
            with jax.default_matmul_precision(precision):
                sentences += _judge(part, compiled.devices, *trained)
            del compiled, trained
    return sentences


class Compiled(NamedTuple):
    """A part and its compiled program.

    Attributes:
      devices: where it trains.
      values: the array-valued settings of all runs.
      shape: of the state of all runs.
      init: `init(values) -> state`.
      epoch: `epoch(state, values, images) -> (state, metrics)`.
      memory: bytes that an epoch takes on each device, and those that are free there.
    """

    part: Part
    devices: Mesh
    values: dict[str, jax.Array]
    shape: training.TrainState
    init: Callable
    epoch: Callable
    memory: Callable[[], tuple[int, float]]


def prepare(part: Part) -> Compiled:
    """The program for so many runs, compiled; without their states, and without looking at the images."""
    program, run, images = part.program, part.runs[0], part.data.train
    with jax.default_matmul_precision(run.matmul_precision):
        devices = mesh.make(len(part.runs), run.batch_size)
        values = jax.tree.map(lambda *leaves: np.stack(leaves), *map(build.arrays, part.runs))
        values = mesh.over_runs_of(devices, values)
        init = jax.jit(training.over_runs(program.init, "map", over=devices))
        state = mesh.over_runs_of(devices, jax.eval_shape(init, values))
        init, mode = init.lower(values).compile(), _mode(state, devices)
        if part.streamed:
            epoch = streaming.Epoch(program.order, program.chunk, images, mode, devices, state, values)
            return Compiled(part, devices, values, state, init, epoch, epoch.memory)
        like = mesh.everywhere(devices, jax.ShapeDtypeStruct(images.shape, images.dtype))
        epoch = jax.jit(training.over_runs(program.epoch, mode, shared=1, over=devices), donate_argnums=0)
        epoch = epoch.lower(state, values, like).compile()
        return Compiled(part, devices, values, state, init, epoch, functools.partial(mesh.memory, devices, epoch))


def _mode(state: training.TrainState, devices: Mesh) -> str:
    """How runs share a program: side by side wherever one alone would leave the device idle."""
    if FLAGS.sweep_mode != "auto":
        return FLAGS.sweep_mode
    runs = len(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    small = parameters < SMALL_NETWORK
    return "vmap" if runs > devices.shape["run"] and (small or jax.default_backend() != "cpu") else "map"


def _train(compiled: Compiled) -> tuple[training.TrainState, np.ndarray]:
    """The last state of all runs, and for each the step at which it diverged, or 0.

    Exits, when all is saved, where the process is asked to stop.

    Raises:
      OSError: if files cannot be written, or images not be read; the epochs before are then saved.
    """
    part, devices = compiled.part, compiled.devices
    run, data, steps = part.runs[0], part.data, part.program.steps_per_epoch
    if jax.device_count() > 1:
        print(mesh.describe(devices, len(part.runs), run.batch_size))
    with cli.one_sentence():
        done, state = _resume(compiled, part.folders)
    images = data.train if part.streamed else mesh.everywhere(devices, data.train)
    eval_every = FLAGS.eval_every or max(1, run.epochs // 20)
    checkpoint_every = FLAGS.checkpoint_every or eval_every
    seconds = max((row["train_seconds"] for f in part.folders for row in f.rows("timing.jsonl")), default=0.0)
    one = functools.partial(mesh.run_of, devices)
    bound, x = assess.make_bound(part.program.judged), assess.pixels(data, assess.curve_split(data))

    # A run that failed before is at the start of that epoch, and fails there again; but if nothing is left to train ...
    step = mesh.fetch(devices, state.step)
    failed_steps = np.where((step == done * steps) | (done < run.epochs), 0, step + 1)
    with ExitStack() as stack:
        watch = stack.enter_context(interrupt.Watch())
        recorder = functools.partial(Recorder, keep=FLAGS.keep, tensorboard=FLAGS.tensorboard)
        recorder = recorder if multihost.is_first() else SilentRecorder
        recorders = [stack.enter_context(recorder(folder)) for folder in part.folders]

        def save(number: int) -> None:
            for recorder in recorders:  # all have the one before, so that a kill leaves one that all have
                recorder.wait()
            for i, recorder in enumerate(recorders):
                recorder.log_time(number, number * steps, seconds)
                recorder.save(number, one(state, i))

        number, saved, asked = done, done, None
        bar = tqdm(total=run.epochs * steps, initial=done * steps, unit="step", disable=not sys.stdout.isatty())
        for number in range(done + 1, run.epochs + 1):
            started = time.perf_counter()
            with part.profile.epoch(number):
                try:
                    state, metrics = compiled.epoch(state, compiled.values, images)
                    metrics = mesh.fetch(devices, metrics)
                except OSError:  # of images that are read meanwhile
                    if saved < number - 1 and jax.process_count() == 1:  # the others are in the epoch, and cannot help
                        save(number - 1)
                    raise
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
                save(number)
                saved = number
            if asked or not alive.any():
                break
        bar.close()
    if asked := multihost.asked_of_any(watch.asked or asked):
        multihost.wait_for_all()
        interrupt.stop_after_saving(asked, f" after epoch {number} of {run.epochs}; all is saved")
    return state, failed_steps


def _resume(compiled: Compiled, folders: list[RunFolder]) -> tuple[int, training.TrainState]:
    """The epoch and the state of all runs at the newest checkpoint that all of them have; or at the start."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), compiled.shape)
    common = set.intersection(*(set(checkpoint.steps(folder.checkpoints)) for folder in folders))
    number, state = 0, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), compiled.shape)
    for candidate in sorted(common, reverse=True):
        found = [checkpoint.restore(folder.checkpoints, like, at=[candidate]) for folder in folders]
        if all(found):
            number, state = candidate, jax.tree.map(lambda *leaves: np.stack(leaves), *(state for _, state in found))
            break
    number = int(multihost.from_first(np.int32(number)))
    for folder in folders:
        if common and not number:  # the fault may be the disk's, or pass
            folder.set_checkpoints_aside()
        folder.forget_after(number)
    if not number:
        return 0, compiled.init(compiled.values)
    return number, mesh.over_runs_of(compiled.devices, multihost.from_first(state))


def _judge(part: Part, devices: Mesh, state: training.TrainState, failed_steps: np.ndarray) -> list[str]:
    """Writes the results of all runs; one sentence for each that diverged."""
    judge = assess.make_judge(part.program.judged, part.data, part.runs[0], part.runs[0].eval_samples)
    final, sentences = functools.partial(mesh.run_of, devices, state), {}
    if jax.process_count() > 1:  # all of it before any is judged: who waits in a collective for long is lost
        final = [final(i) for i in range(len(part.runs))].__getitem__
    # Those that diverged first: when they did is not known to a later start.
    for i in sorted(range(len(part.runs)), key=lambda i: failed_steps[i] == 0):
        state_of_run = final(i)
        if multihost.is_first():
            sentences[i] = _conclude(part, part.runs[i], part.folders[i], state_of_run, failed_steps[i], judge)
    return [sentences[i] for i in sorted(sentences) if sentences[i]]


def _conclude(part: Part, run: Settings, folder: RunFolder, state, failed_step, judge) -> str | None:
    """Writes the figures, as numbers and as pictures, of a finished run; or one sentence on where it diverged."""
    step, params, steps = int(state.step), state.params["model"], part.program.steps_per_epoch
    finished = step == run.epochs * steps
    row = run.json() | {"status": "done" if finished else "diverged", "step": step if finished else failed_step.item()}
    if finished:
        row |= judge(params)
        if len(part.data.validation):
            row["validation_elbo_nats"] = folder.rows()[-1]["elbo_nats"]
    files.write_json(folder.path / "result.json", row)
    if not finished:
        last = f"the state of epoch {step // steps} is kept there"
        return f"{folder.path}: the loss, or the gradient before it, was not finite at step {failed_step}, {last}"
    if FLAGS.figures:  # last: a result needs no pictures
        from experiments.common import pictures  # matplotlib is slow to import

        pictures.draw_run(folder, part.data, part.program.judged, params)
    return None


def _mean(bounds: np.ndarray) -> float:
    """Over the runs that are finite; NaN if none is."""
    finite = bounds[np.isfinite(bounds)]
    return finite.mean() if len(finite) else np.nan
