"""The training of one program: compilation, epochs, evaluations, checkpoints, resumption, results.

diverged = train(program, options)
"""

import functools
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from tqdm import tqdm

from experiments.common import assess, build, cli, files, interrupt, results
from experiments.common.settings import Settings
from experiments.train import multihost
from experiments.train.flags import Options
from experiments.train.recorder import Recorder
from experiments.train.sweep import Program, Run
from vae import checkpoint
from vae import train as training
from vae.devices import mesh, streaming

# A network with fewer parameters does not fill a CPU core, so runs side by side are faster than runs one by one: by up
# to a quarter with 34,000 parameters, not at all with 424,000. With 814,000 they are slower.
SMALL_NETWORK = 200_000


def train(program: Program, options: Options) -> list[str]:
    """Trains the runs of a program from their last checkpoints to the end, and writes their results.

    If the runs do not fit into memory together, the second half of them is trained after the first.

    Returns:
      A sentence for each run that diverged.

    Raises:
      OSError: If files cannot be written or images cannot be read; the same command then resumes.
      SystemExit: If the process was asked to stop; the states are then saved.
    """
    if program.name:
        print(f"{program.name}, runs: {len(program.runs)}")
    with jax.default_matmul_precision(program.settings.matmul_precision):
        compiled = compile_program(program, options.sweep_mode)
        needed, free = compiled.memory()
        if len(program.runs) > 1 and multihost.from_first(np.array(needed > free)):
            sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
            print(f"{len(program.runs)} runs at once need {sizes}; they train in two halves, one after the other")
            del compiled
            return [sentence for half in program.halves() for sentence in train(half, options)]
        with program.profile:
            state, failed_steps = run_epochs(compiled, options)
        return write_results(compiled, state, failed_steps, options.figures)


# --- Compilation


class Compiled(NamedTuple):
    """The compiled functions of a program.

    Attributes:
      program: The program.
      devices: The devices it runs on.
      values: The array-valued settings, each with a leading axis of runs.
      state: The shapes of the state of all runs.
      init: `init(values) -> state`.
      epoch: `epoch(state, values, images) -> (state, metrics)`.
      memory: A function without arguments: the bytes that an epoch takes on each device, and the bytes free there.
    """

    program: Program
    devices: Mesh
    values: dict[str, Array]
    state: training.TrainState
    init: Callable
    epoch: Callable
    memory: Callable[[], tuple[int, float]]


def compile_program(program: Program, sweep_mode: str) -> Compiled:
    """Compiles a program for all its runs, before any state is allocated or any image is read."""
    functions = program.functions
    images = program.data.train
    devices = mesh.make(len(program.runs), program.settings.batch_size)
    arrays = [build.arrays(run.settings) for run in program.runs]
    values = mesh.over_runs_of(devices, jax.tree.map(lambda *leaves: np.stack(leaves), *arrays))

    init = jax.jit(training.over_runs(functions.init, "map", over=devices))
    state = mesh.over_runs_of(devices, jax.eval_shape(init, values))
    init = init.lower(values).compile()
    mode = choose_mode(program.settings, state, devices) if sweep_mode == "auto" else sweep_mode
    if program.streamed:
        epoch = streaming.Epoch(functions.order, functions.chunk, images, mode, devices, state, values)
        memory = epoch.memory
    else:
        image_shape = mesh.everywhere(devices, jax.ShapeDtypeStruct(images.shape, images.dtype))
        epoch = training.over_runs(functions.epoch, mode, shared=1, over=devices)
        epoch = jax.jit(epoch, donate_argnums=0).lower(state, values, image_shape).compile()
        memory = functools.partial(mesh.memory, devices, epoch)
    return Compiled(program, devices, values, state, init, epoch, memory)


def choose_mode(settings: Settings, state: training.TrainState, devices: Mesh) -> str:
    """How runs share a device: "vmap" (side by side) where a single run would leave the device idle, else "map".

    Runs with another generator than threefry are mapped: under vmap they would draw other numbers than alone.
    """
    if settings.prng != "threefry2x32":
        return "map"
    runs = len(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    idle = parameters < SMALL_NETWORK or jax.default_backend() != "cpu"
    return "vmap" if runs > devices.shape["run"] and idle else "map"


# --- Epochs


def run_epochs(compiled: Compiled, options: Options) -> tuple[training.TrainState, np.ndarray]:
    """Trains the epochs that are left.

    Returns:
      The last state of all runs, and for each run the step at which it diverged, or 0.

    Raises:
      OSError: As `train`. The epochs before the failed one are saved.
      SystemExit: As `train`.
    """
    program, devices = compiled.program, compiled.devices
    settings, data = program.settings, program.data
    steps = program.functions.steps_per_epoch
    if jax.device_count() > 1:
        print(mesh.describe(devices, len(program.runs), settings.batch_size))
    with cli.one_sentence():
        start, state = resume(compiled)
    failed_steps = failures_before(compiled, start, state)
    seconds = max((row["train_seconds"] for f in program.folders for row in f.rows("timing.jsonl")), default=0.0)
    images = data.train if program.streamed else mesh.everywhere(devices, data.train)
    eval_every = options.eval_every or max(1, settings.epochs // 20)
    checkpoint_every = options.checkpoint_every or eval_every
    evaluate = make_evaluation(compiled)
    recorder = Recorder(
        program.folders, keep=options.keep, tensorboard=options.tensorboard, silent=not multihost.is_first()
    )

    def save(epoch: int, state: training.TrainState, seconds: float) -> None:
        recorder.save(epoch, epoch * steps, seconds, functools.partial(mesh.run_of, devices, state))

    bar = tqdm(total=settings.epochs * steps, initial=start * steps, unit="step", disable=not sys.stdout.isatty())
    epoch = start
    newest_save = start
    received: signal.Signals | None = None  # the signal to stop that this or another process received
    with interrupt.Watch() as watch, recorder, bar:
        for epoch in range(start + 1, settings.epochs + 1):
            started = time.perf_counter()
            with program.profile.epoch(epoch):
                try:
                    state, metrics = compiled.epoch(state, compiled.values, images)
                    metrics = mesh.fetch(devices, metrics)
                except OSError:  # streamed images could not be read
                    # Several processes cannot save here: saving needs all, and the others are still in the epoch.
                    if newest_save < epoch - 1 and jax.process_count() == 1:
                        save(epoch - 1, state, seconds)
                    raise
            seconds += time.perf_counter() - started
            bar.update(steps)
            bar.set_postfix_str(f"epoch {epoch}/{settings.epochs}, bound {_finite_mean(metrics['bound']):.2f} nats")

            failed_steps = np.where(failed_steps == 0, metrics["failed_step"], failed_steps)
            alive = np.flatnonzero(failed_steps == 0)
            received = multihost.asked_of_any(watch.asked)
            last = epoch == settings.epochs or not len(alive)
            if last or epoch % eval_every == 0:
                for i in alive:
                    recorder.log(i, evaluate(epoch, state, metrics, i), seconds)
            if last or received or epoch % checkpoint_every == 0:
                save(epoch, state, seconds)
                newest_save = epoch
            if last or received:
                break
    # A signal may also have come during the last save.
    if received := multihost.asked_of_any(watch.asked or received):
        interrupt.stop_after_saving(received, f" after epoch {epoch} of {settings.epochs}; all is saved")
    return state, failed_steps


def failures_before(compiled: Compiled, start: int, state: training.TrainState) -> np.ndarray:
    """For each run the step at which it diverged before the epoch `start`, or 0.

    A run that diverged keeps the state from before the failed epoch, so its step lags behind. If an epoch is left to
    train, the result is 0: the run fails again in that epoch, which reports the exact step. If no epoch is left, the
    result is the first step after the state.
    """
    program = compiled.program
    step = mesh.fetch(compiled.devices, state.step)
    lags_behind = step < start * program.functions.steps_per_epoch
    finished = start == program.settings.epochs
    return np.where(lags_behind & finished, step + 1, 0)


def make_evaluation(compiled: Compiled) -> Callable:
    """`evaluation(epoch, state, metrics, i) -> dict`: the row of metrics.jsonl of run i after the epoch."""
    program = compiled.program
    split = assess.curve_split(program.data)
    bound = assess.make_bound(program.functions.evaluated)
    x = assess.pixels(program.data, split)

    def evaluation(epoch: int, state: training.TrainState, metrics: dict[str, np.ndarray], i: int) -> dict[str, Any]:
        step = epoch * program.functions.steps_per_epoch
        row = {"epoch": epoch, "step": step, "examples": step * program.settings.batch_size, "split": split}
        row["bound_nats"] = metrics["bound"][i].item()
        return row | bound(mesh.run_of(compiled.devices, state.params["model"], i), x)

    return evaluation


def resume(compiled: Compiled) -> tuple[int, training.TrainState]:
    """The newest epoch with an undamaged checkpoint of every run, and the state of all runs; else 0 and a new state.

    Rows and checkpoints of later epochs are deleted. Checkpoints that cannot be read are set aside.
    """
    folders = compiled.program.folders
    shape_of_run = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), compiled.state)
    common = set.intersection(*(set(checkpoint.steps(folder.checkpoints)) for folder in folders))
    epoch = 0
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), compiled.state)
    for candidate in sorted(common, reverse=True):
        restored = [checkpoint.restore(folder.checkpoints, shape_of_run, at=[candidate]) for folder in folders]
        if all(restored):
            epoch = candidate
            state = jax.tree.map(lambda *leaves: np.stack(leaves), *(state for _, state in restored))
            break
    epoch = int(multihost.from_first(np.int32(epoch)))
    for folder in folders:
        if common and not epoch:
            folder.set_checkpoints_aside()
        folder.forget_after(epoch)
    if not epoch:
        return 0, compiled.init(compiled.values)
    return epoch, mesh.over_runs_of(compiled.devices, multihost.from_first(state))


def _finite_mean(bounds: np.ndarray) -> float:
    """The mean over the runs whose bound is finite; NaN if there is none."""
    finite = bounds[np.isfinite(bounds)]
    return finite.mean() if len(finite) else np.nan


# --- Results


def write_results(compiled: Compiled, state: training.TrainState, failed_steps: np.ndarray, figures: str) -> list[str]:
    """Writes the result of every run, then the pictures that --figures asks for.

    Returns:
      A sentence for each run that diverged.
    """
    program, devices = compiled.program, compiled.devices
    test_figures = assess.make_test_figures(
        program.functions.evaluated, program.data, program.settings, program.settings.eval_samples
    )
    state_of_run = functools.partial(mesh.run_of, devices, state)
    if jax.process_count() > 1:
        # Fetching a state needs all processes, so all states are fetched first. If process 0 evaluated a run while
        # the others waited for the next state, the others would give up.
        state_of_run = [state_of_run(i) for i in range(len(program.runs))].__getitem__
    rows = {}
    # Diverged runs come first: a later start could not tell at which step they diverged.
    for i in sorted(range(len(program.runs)), key=lambda i: failed_steps[i] == 0):
        final = state_of_run(i)
        if multihost.is_first():
            rows[i] = write_result(program, program.runs[i], final, failed_steps[i], test_figures)
    for i in runs_to_draw(rows, figures):  # after the results, which a failing picture must not lose
        run = program.runs[i]
        with cli.drawing(run.folder.figures):
            from experiments.common import pictures  # matplotlib is slow to import

            pictures.draw_run(run.folder, program.data, program.functions.evaluated, state_of_run(i).params["model"])
    return [
        _divergence(program, program.runs[i], failed_steps[i])
        for i, row in sorted(rows.items())
        if row["status"] == "diverged"
    ]


def write_result(
    program: Program, run: Run, state: training.TrainState, failed_step: np.ndarray, test_figures: Callable
) -> dict[str, Any]:
    """Writes the result of a run, and returns it."""
    step = int(state.step)
    finished = step == run.settings.epochs * program.functions.steps_per_epoch
    row = run.settings.json()
    row |= {"status": "done" if finished else "diverged", "step": step if finished else failed_step.item()}
    if finished:
        row |= test_figures(state.params["model"])
        if len(program.data.validation):
            row["validation_elbo_nats"] = run.folder.rows()[-1]["elbo_nats"]
    files.write_json(run.folder.path / "result.json", row)
    return row


def runs_to_draw(rows: dict[int, dict[str, Any]], figures: str) -> list[int]:
    """The numbers of the runs that --figures asks for: every finished run (all), the best one (sweep), or none."""
    done = [i for i, row in sorted(rows.items()) if row["status"] == "done"]
    if figures == "sweep" and done:
        return [done[results.best([rows[i] for i in done])]]
    return done if figures == "all" else []


def _divergence(program: Program, run: Run, failed_step: np.ndarray) -> str:
    """The sentence about a run that diverged."""
    kept_epoch = (failed_step - 1) // program.functions.steps_per_epoch
    return (
        f"{run.folder.path}: the loss, or the gradient before it, was not finite at step {failed_step};"
        f" the folder keeps the state of epoch {kept_epoch}; {_advice(failed_step)}"
    )


def _advice(failed_step: int | np.ndarray) -> str:
    """The flags that may help a run that diverged at this step, counted from 1."""
    if failed_step <= 1:
        return (
            "a smaller --learning_rate seldom helps at the first step;"
            " try another --posterior or --likelihood, or fewer layers in --latent_dim"
        )
    return "try a smaller --learning_rate or --clip_norm=1"
