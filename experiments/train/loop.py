"""The training of one program: compilation, epochs, evaluations, checkpoints, resumption, results."""

import concurrent.futures
import contextlib
import functools
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from experiments.common import assess, build, canary, cli, interrupt, phases
from experiments.common.program_state import Progress, first_progress
from experiments.common.settings import Settings
from experiments.train import multihost, step_cost
from experiments.train.evaluation import make_evaluation
from experiments.train.flags import Options
from experiments.train.hook import Hook
from experiments.train.recorder import Recorder
from experiments.train.step_cost import StepCost
from experiments.train.sweep import Program
from vae import checkpoint, estimators
from vae import train as training
from vae.devices import mesh, streaming

# A network with fewer parameters does not fill a CPU core, so runs side by side are faster than runs one by one: by up
# to a quarter with 34,000 parameters, not at all with 424,000. With 814,000 they are slower.
SMALL_NETWORK = 200_000


def train_all(programs: list[Program], options: Options) -> list[str]:
    """Trains programs one after the other. While one trains, a thread measures the cost of its step and compiles the
    next.

    Several processes do all this when a program's turn comes, because they exchange values while they compile.

    Returns:
      A sentence for each run that diverged.

    Raises:
      OSError, SystemExit: As `train`.
    """
    if jax.process_count() > 1:
        return [sentence for program in programs for sentence in train(program, options)]
    sentences = []
    with contextlib.ExitStack() as stack:
        thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        stack.callback(thread.shutdown, cancel_futures=True)  # a command that stops waits for one task at most
        prepare = lambda program: (
            thread.submit(compile_program, program, options.sweep_mode),
            thread.submit(measure_cost, program),
        )
        prepared = [prepare(program) for program in programs[:1]]
        if programs:
            phases.say("compiling")
        for number, program in enumerate(programs, 1):
            compiled, cost = prepared.pop()
            ready = compiled.result()
            prepared = [prepare(following) for following in programs[number : number + 1]]
            sentences += train(program, options, ready, cost)
    return sentences


def train(
    program: Program,
    options: Options,
    compiled: "Compiled | None" = None,
    cost: concurrent.futures.Future[StepCost] | None = None,
) -> list[str]:
    """Trains the runs of a program from their last checkpoint to the end, and writes their results.

    After that, other processes can claim the folder. If the runs of a new program do not fit into memory together, they
    become two programs with half of the runs each.

    Args:
      compiled: The result of `compile_program`, if it is there already.
      cost: The future result of `measure_cost`, if another thread measures the cost.

    Returns:
      A sentence for each run that diverged.

    Raises:
      OSError: If files cannot be written or images cannot be read; the same command then resumes.
      SystemExit: If the process was asked to stop; the states are then saved.
    """
    if program.name:
        phases.say(f"{program.name}, runs: {len(program.runs)}")
    with jax.default_matmul_precision(program.settings.matmul_precision):
        compiled = compiled or compile_program(program, options.sweep_mode)
        needed, free = compiled.memory()
        may_be_halved = len(program.runs) > 1 and not program.folder.has_begun()
        if multihost.from_first(np.array(may_be_halved and needed > free)):
            sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
            print(f"{len(program.runs)} runs at once need {sizes}; they train in two halves, one after the other")
            program.folder.remove()
            halves = program.halves()
            for half in halves:
                half.folder.claim(half.runs, half.data, options.data_dir)
            return [sentence for half in halves for sentence in train(half, options, cost=cost)]
        if canary.is_due(compiled.mode) and runs_differ_side_by_side(compiled):
            compiled = compile_program(program, options.sweep_mode)
        hook = Hook(options.on_evaluation, program.folder) if options.on_evaluation else None
        with program.profile:
            progress = run_epochs(compiled, options, hook)
        measured = cost.result() if cost else measure_cost(program)
        diverged = write_results(compiled, progress, measured, options, hook)
    program.folder.close()
    return diverged


# --- Compilation


class Compiled(NamedTuple):
    """The compiled functions of a program.

    Attributes:
      program: The program.
      devices: The devices it runs on.
      values: The array-valued settings, each with a leading axis of runs.
      state: The shapes of the state of all runs.
      mode: How a device computes its runs; see `train.over_runs`.
      init: `init(values) -> state`.
      epoch: `epoch(state, values, images) -> (state, metrics)`.
      memory: A function without arguments: the bytes that an epoch takes on each device, and the bytes free there.
    """

    program: Program
    devices: Mesh
    values: dict[str, Array]
    state: training.TrainState
    mode: str
    init: Callable
    epoch: Callable
    memory: Callable[[], tuple[int, float]]


def compile_program(program: Program, sweep_mode: str) -> Compiled:
    """Compiles a program for all its runs, before any state is allocated or any image is read.

    Runs whose folder records a fallback are mapped, whatever `sweep_mode` says.
    """
    with jax.default_matmul_precision(program.settings.matmul_precision):  # a thread does not inherit the setting
        return _compile_program(program, sweep_mode)


def _compile_program(program: Program, sweep_mode: str) -> Compiled:
    functions = program.functions
    images = program.data.train
    devices = mesh.make(len(program.runs), program.settings.batch_size)
    arrays = [build.arrays(run) for run in program.runs]
    values = mesh.over_runs_of(devices, jax.tree.map(lambda *leaves: np.stack(leaves), *arrays))

    init = jax.jit(training.over_runs(functions.init, "map", over=devices))
    state = mesh.over_runs_of(devices, jax.eval_shape(init, values))
    init = init.lower(values).compile()
    mode = choose_mode(program.settings, state, devices) if sweep_mode == "auto" else sweep_mode
    if multihost.from_first(np.array(bool(program.folder.fallback()))):
        mode = "map"
    if program.streamed:
        epoch = streaming.Epoch(functions.order, functions.chunk, images, mode, devices, state, values)
        memory = epoch.memory
    else:
        image_shape = mesh.everywhere(devices, jax.ShapeDtypeStruct(images.shape, images.dtype))
        epoch = training.over_runs(functions.epoch, mode, shared=1, over=devices)
        epoch = jax.jit(epoch, donate_argnums=0).lower(state, values, image_shape).compile()
        memory = functools.partial(mesh.memory, devices, epoch)
    return Compiled(program, devices, values, state, mode, init, epoch, memory)


def measure_cost(program: Program) -> StepCost:
    """The cost of a training step of one run."""
    with jax.default_matmul_precision(program.settings.matmul_precision):  # a thread does not inherit the setting
        return step_cost.measure(program.settings, program.data)


def choose_mode(settings: Settings, state: training.TrainState, devices: Mesh) -> str:
    """How runs share a device: "vmap" (side by side) where a single run would leave the device idle, else "map".

    Runs with another generator than threefry are mapped: under vmap they would draw other numbers than alone. Runs
    whose estimator chooses among others are mapped too: under vmap every step would compute all of them.
    """
    if settings.prng != "threefry2x32" or estimators.BY_NAME.find(settings.choice("estimator").name).chooses:
        return "map"
    runs = len(state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    idle = parameters < SMALL_NETWORK or jax.default_backend() != "cpu"
    return "vmap" if runs > devices.shape["run"] and idle else "map"


def runs_differ_side_by_side(compiled: Compiled) -> bool:
    """Whether a few steps of the runs side by side differ from those of single runs by more than rounding.

    If they differ, the sentence that says so is printed, and recorded in the folder of the program.
    """
    program, settings = compiled.program, compiled.program.settings
    of_one_device = program.runs[: len(program.runs) // compiled.devices.shape["run"]]
    values = jax.tree.map(lambda *leaves: np.stack(leaves), *map(build.arrays, of_one_device))
    difference = canary.difference(
        program.functions.init,
        program.functions.epoch,
        values,
        canary.few(program.data.train, settings.batch_size),
        canary.rounding(settings.compute_dtype, settings.matmul_precision),
    )
    if not multihost.from_first(np.array(bool(difference))):
        return False
    if multihost.is_first():
        reason = f"runs side by side differ from single runs ({difference})"
        print(f"{reason}, so the runs train one after the other (see runs.json)")
        program.folder.record_fallback(reason)
    return True


# --- Epochs


def run_epochs(compiled: Compiled, options: Options, hook: Hook | None) -> Progress:
    """Trains the epochs that are left.

    Raises:
      OSError: As `train`. The epochs before the failed one are saved.
      SystemExit: As `train`.
    """
    program, devices = compiled.program, compiled.devices
    settings, data, folder = program.settings, program.data, program.folder
    steps = program.functions.steps_per_epoch
    if jax.device_count() > 1:
        print(mesh.describe(devices, len(program.runs), settings.batch_size))
    with cli.one_sentence():
        start, progress = resume(compiled)
    seconds = max(folder.seconds().values(), default=0.0)
    images = data.train if program.streamed else mesh.everywhere(devices, data.train)
    eval_every = options.eval_every or assess.curve_spacing(settings.epochs)
    measure_every = options.measure_gradient
    evaluate = make_evaluation(program, devices, compiled.values)

    def save(epoch: int, progress: Progress) -> None:
        if epoch == settings.epochs:
            progress = progress.without_optimizer()
        progress = mesh.fetch(devices, progress)  # a task for all processes
        if recorder:
            recorder.save(epoch, epoch * steps, seconds, progress)

    if start < settings.epochs:
        phases.say(f"training, epochs {start + 1} to {settings.epochs}")
    epoch = start
    saved = start
    last_save = time.monotonic()
    received: signal.Signals | None = None  # the signal to stop that this or another process received
    with interrupt.Watch() as watch, contextlib.ExitStack() as stack:
        recorder = None
        if multihost.is_first():
            recorder = Recorder(folder, options.keep, options.tensorboard, first_step=start * steps + 1)
            stack.enter_context(recorder)
        advance = stack.enter_context(phases.steps(settings.epochs * steps, start * steps))
        for epoch in range(start + 1, settings.epochs + 1):
            started = time.perf_counter()
            with program.profile.epoch(epoch):
                try:
                    state, metrics = compiled.epoch(progress.state, compiled.values, images)
                    metrics = mesh.fetch(devices, metrics)
                except OSError:  # streamed images could not be read
                    # Several processes cannot save here: saving needs all, and the others are still in the epoch.
                    if saved < epoch - 1 and jax.process_count() == 1:
                        save(epoch - 1, progress)
                    raise
            seconds += time.perf_counter() - started
            advance(steps, f"epoch {epoch}/{settings.epochs}, bound {_finite_mean(metrics['bound']):.2f} nats")

            failed_step = np.where(progress.failed_step == 0, metrics["failed_step"], progress.failed_step)
            progress = Progress(state, failed_step, progress.best)
            alive = np.flatnonzero(failed_step == 0)
            received = multihost.asked_of_any(watch.asked)
            last = epoch == settings.epochs or not len(alive)
            if last or epoch % eval_every == 0:
                measured = measure_every and (last or epoch // eval_every % measure_every == 0)
                rows, progress = evaluate(epoch, progress, metrics, alive, measured)
                if recorder:
                    recorder.log(epoch, epoch * steps, rows, seconds)
                if hook:
                    hook(rows, mesh.fetch(devices, progress.state))
            due = time.monotonic() - last_save >= 60 * options.checkpoint_minutes
            due |= bool(options.checkpoint_every) and epoch % options.checkpoint_every == 0
            if multihost.from_first(np.array(last or due)) or received:
                save(epoch, progress)
                saved = epoch
                last_save = time.monotonic()
            if last or received:
                break
    # A signal may also have come during the last save.
    if received := multihost.asked_of_any(watch.asked or received):
        interrupt.stop_after_saving(received, f" after epoch {epoch} of {settings.epochs}; all is saved")
    return progress


def resume(compiled: Compiled) -> tuple[int, Progress]:
    """The epoch and the content of the newest undamaged checkpoint; else 0 and new states.

    The array `failed_step` stays on the host, and is the same in every process.

    Rows and checkpoints of later epochs are deleted. Checkpoints that cannot be read are set aside.
    """
    folder, epochs = compiled.program.folder, compiled.program.settings.epochs
    validation = bool(len(compiled.program.data.validation))
    shape = jax.eval_shape(first_progress, compiled.state, validation)
    present = checkpoint.steps(folder.checkpoints)
    epoch = 0
    for candidate in sorted(present, reverse=True):
        like = shape if candidate < epochs else shape.without_optimizer()
        if restored := checkpoint.restore(folder.checkpoints, like, at=[candidate]):
            epoch, progress = restored
            break
    epoch = int(multihost.from_first(np.int32(epoch)))
    folder.set_checkpoints_aside([step for step in present if step > epoch])
    folder.forget_after(epoch)
    if not epoch:
        progress = first_progress(compiled.init(compiled.values), validation)
        return 0, progress._replace(failed_step=np.asarray(progress.failed_step))
    if not multihost.is_first():
        like = shape if epoch < epochs else shape.without_optimizer()
        progress = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    progress = multihost.from_first(progress)
    return epoch, mesh.over_runs_of(compiled.devices, progress)._replace(failed_step=progress.failed_step)


def _finite_mean(bounds: np.ndarray) -> float:
    """The mean over the runs whose bound is finite; NaN if there is none."""
    finite = bounds[np.isfinite(bounds)]
    return finite.mean() if len(finite) else np.nan


# --- Results


def write_results(
    compiled: Compiled, progress: Progress, cost: StepCost, options: Options, hook: Hook | None
) -> list[str]:
    """Writes the results of all runs, and removes the older checkpoints unless --checkpoint_every asked for them.

    Returns:
      A sentence for each run that diverged.
    """
    program, folder = compiled.program, compiled.program.folder
    state = mesh.fetch(compiled.devices, progress.state) if hook else None

    def write(results: dict[int, dict[str, Any]]) -> None:
        if multihost.is_first():
            folder.write_results(results)
        if hook:
            epochs = state.step // program.functions.steps_per_epoch
            hook([{"run": i, "epoch": epochs[i].item(), **result} for i, result in results.items()], state)

    failed = {i: int(step) for i, step in enumerate(progress.failed_step) if step}
    write({i: {"status": "diverged", "step": step} for i, step in failed.items()})
    if len(failed) < len(program.runs):
        phases.say(f"evaluating, K={program.settings.eval_samples}")
        settings, model = program.settings, program.functions.evaluated
        samples = settings.eval_samples
        last = {}
        if len(program.data.validation) and multihost.is_first():
            by_run = enumerate(folder.rows_by_run())
            # A run that diverged before its first evaluation has no rows.
            last = {i: {"validation_elbo_nats": rows[-1]["elbo_nats"]} for i, rows in by_run if rows}
        steps = settings.epochs * program.functions.steps_per_epoch
        costs = {"step_evaluations": cost.evaluations, "step_flops": cost.flops}
        for rows in assess.test_figures(model, compiled.devices, progress.state, program.data, settings, samples):
            done = {i: row for i, row in rows.items() if i not in failed}
            write({i: {"status": "done", "step": steps} | row | costs | last.get(i, {}) for i, row in done.items()})
    if not multihost.is_first():
        return []
    if not options.checkpoint_every:
        checkpoint.drop_before(folder.checkpoints, checkpoint.steps(folder.checkpoints)[-1])
    return [_divergence(program, i, step) for i, step in failed.items()]


def _divergence(program: Program, i: int, failed_step: int) -> str:
    """The sentence about a run that diverged."""
    kept_epoch = (failed_step - 1) // program.functions.steps_per_epoch
    return (
        f"{program.folder.run_path(i)}: the loss, or the gradient before it, was not finite at step {failed_step};"
        f" the folder keeps the state of epoch {kept_epoch}; {_advice(failed_step)}"
    )


def _advice(failed_step: int) -> str:
    """The flags that may help a run that diverged at this step, counted from 1."""
    if failed_step <= 1:
        return (
            "a smaller --learning_rate seldom helps at the first step;"
            " try another --posterior or --likelihood, or fewer layers in --latent_dim"
        )
    return "try a smaller --learning_rate or --clip_norm=1"
