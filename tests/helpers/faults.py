"""Faults while a run is trained. Each function causes one in its process; `entry_points.Call.fault` names it."""

import atexit
import functools
import itertools
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.custom_batching import custom_vmap

from experiments.common import build, canary, task
from experiments.common.program_folder import ProgramFolder
from experiments.common.task import Task
from experiments.train.recorder import Recorder
from vae.devices import streaming


def disk_fills_up() -> None:
    """From the fourth evaluation on, another thread fills the disk of the workdir, also with the space that deleted
    checkpoints set free."""
    append, calls = ProgramFolder.append, itertools.count()

    def fill(full: threading.Event):
        with open(f"{flags.FLAGS.workdir}/../filler", "wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    full.set()
                    time.sleep(1e-4)

    def filling(self, *arguments):
        if next(calls) == 6:
            full = threading.Event()
            threading.Thread(target=fill, args=[full], daemon=True).start()
            full.wait()
        append(self, *arguments)

    ProgramFolder.append = filling


def gradient_of_seed_1_is_nan_at_step_30() -> None:
    make = build.optimizer

    def optimizer(run, values, total_steps):
        def update(gradients, count, params=None):
            del params
            bad = (values["seed"] == 1) & (count == 29)
            return jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), gradients), count + 1

        broken = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
        return optax.chain(broken, make(run, values, total_steps))

    build.optimizer = optimizer


def runs_side_by_side_are_checked() -> None:
    """No fault: as on an accelerator, runs side by side are compared with single runs before they train."""
    canary.is_due = lambda mode: mode == "vmap"


def runs_side_by_side_are_wrong() -> None:
    """As in jax-ml/jax#40362, runs side by side lose a factor: their steps are twice those of a single run."""

    @custom_vmap
    def half(update):
        return update / 2

    @half.def_vmap
    def _whole(axis_size, in_batched, update):
        del axis_size, in_batched
        return update, True

    make = build.optimizer
    halved = optax.stateless(lambda updates, params: jax.tree.map(half, updates))
    build.optimizer = lambda *arguments: optax.chain(make(*arguments), halved)


def wrong_runs_side_by_side_are_checked() -> None:
    runs_side_by_side_are_wrong()
    runs_side_by_side_are_checked()


def compiled_programs_are_counted() -> None:
    """No fault: at its end, the process prints how many programs it compiled and how many checkpoints it wrote."""
    compiled, saved = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    save = Recorder.save

    def counting(self, *arguments):
        saved.append(arguments)
        save(self, *arguments)

    Recorder.save = counting
    atexit.register(lambda: print(f"compiled {len(compiled)}, saved {len(saved)}"))


def traces_and_compiled_programs_are_counted() -> None:
    """No fault: at its end, the process prints how often bounds of the laboratory were traced, and how many programs it
    compiled."""
    traced, compiled = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    bound_of = Task.bound.fget

    @functools.cache  # one function for each bound, because compiled programs are found by it
    def counting(bound):
        def counted(*arguments):
            traced.append(bound)
            return bound(*arguments)

        return counted

    Task.bound = property(lambda self: counting(bound_of(self)))
    atexit.register(lambda: print(f"traced {len(traced)}, compiled {len(compiled)}"))


def gradients_are_traced_anew() -> None:
    """Counts as above; each use of an estimator's gradient traces the bound again."""
    traces_and_compiled_programs_are_counted()
    task._make_gradient = task._make_gradient.__wrapped__


def clock_goes_backwards() -> None:
    """The clock goes back a minute whenever it is read."""
    now, looks = time.time(), itertools.count()
    time.time = lambda: now - 60.0 * next(looks)
    time.time_ns = lambda: int(1e9 * time.time())


def an_array_is_larger_than_memory() -> None:
    """Loading the data raises NumPy's error."""
    load = build.load_data

    def large(*arguments):
        np.zeros(2**50)
        return load(*arguments)

    build.load_data = large


def training_images_are_damaged_in_epoch_3() -> None:
    """The images are streamed from the disk, so the damage is met while the run trains."""
    train, epochs = streaming.Epoch.__call__, itertools.count(1)

    def damaged(self, *arguments):
        if next(epochs) == 3:
            for path in Path(flags.FLAGS.data_dir).rglob("*-train.array_record*"):
                with open(path, "r+b") as file:
                    file.seek(1000)
                    file.write(bytes(5000))
        return train(self, *arguments)

    streaming.Epoch.__call__ = damaged
