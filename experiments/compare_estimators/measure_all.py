"""Measures every case of every task, and the time of every case."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.common import measuring, phases
from experiments.common.candidates import Case
from experiments.common.measuring import Measurement, Protocol, digest, measure
from experiments.common.store import Store
from experiments.common.task import Task
from experiments.compare_estimators.truth import KnownTruth, find_truth
from vae import diagnostics

# The shortest run of a timed program in seconds. The clock would be too inaccurate for a shorter run.
SHORTEST = 0.03


class Result(NamedTuple):
    """One measured case of one task."""

    task: Task
    case: Case
    source: str  # the origin of the true gradient, in words
    measurement: Measurement

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        return self.measurement.figures

    @property
    def by_chunk(self) -> dict[str, dict[str, np.ndarray]]:
        return self.measurement.by_chunk


def measure_all(tasks: list[Task], cases: list[Case], protocol: Protocol, store: Store) -> list[Result]:
    """The results of every case of each task, task by task. Each case is compared with the task's true gradient.

    Results are stored, and stored results are not measured again.
    """
    # The mean over K samples has the same gradient for every K.
    samples_of_truth = lambda case: case.num_samples if tasks[0].is_multi_sample else 1
    numbers = dict.fromkeys(map(samples_of_truth, cases))
    truths: dict[tuple[int, int], KnownTruth] = {}
    results: dict[tuple[int, Case], Result] = {}
    place = lambda task: _place(task) if len(tasks) > 1 else ""
    name = lambda item: f"K={item[0]}{place(item[1][1])}"
    for num_samples, (i, task) in phases.each([*itertools.product(numbers, enumerate(tasks))], "true gradient", name):
        truths[i, num_samples] = find_truth(task, num_samples, protocol, store)
    name = lambda item: f"{item[0].label}{place(item[1][1])}"
    for case, (i, task) in phases.each([*itertools.product(cases, enumerate(tasks))], "measuring", name):
        results[i, case] = _recall(task, case, protocol, truths[i, samples_of_truth(case)], store)
    return [results[i, case] for i in range(len(tasks)) for case in cases]


def _place(task: Task) -> str:
    """The point of a sweep, for the progress."""
    return "".join(f", {name}={value:g}" for name, value in task.problem.point.items())


def _recall(task: Task, case: Case, protocol: Protocol, known: KnownTruth, store: Store) -> Result:
    """The stored result, or a new one."""
    new = lambda: measure(task, case, protocol, known.truth)._asdict()
    measurement = Measurement(
        **store.recall(digest("estimator", task, case.estimator, case.num_samples, protocol), new)
    )
    return Result(task, case, known.source, measurement)


def time_all(task: Task, cases: list[Case], protocol: Protocol, store: Store) -> np.ndarray:
    """Seconds of one gradient of each case in each round, `[cases, rounds]`. Stored times serve only the same cases."""
    names = " ".join(case.label for case in cases)
    timing = digest(f"seconds in {protocol.rounds} rounds", task, names, num_samples=0, protocol=protocol)
    return store.recall(timing, lambda: {"seconds": _measure_seconds(task, cases, protocol)})["seconds"]


def _measure_seconds(task: Task, cases: list[Case], protocol: Protocol) -> np.ndarray:
    programs = []
    gradients = []  # number of gradients in one call of each program
    for case in phases.each(cases, "timing", lambda case: case.label):
        program, block = _timed_program(task, case, protocol)
        once = diagnostics.interleaved_seconds([lambda program=program: program(1)], 3).min()
        steps = max(1, math.ceil(SHORTEST / once))
        programs.append(functools.partial(program, steps))
        gradients.append(steps * block)
    return diagnostics.interleaved_seconds(programs, protocol.rounds) / np.array(gradients)[:, None]


def _timed_program(task: Task, case: Case, protocol: Protocol) -> tuple[Callable, int]:
    """A compiled `program(rounds)` that draws `rounds * block` gradients, and the number `block`."""
    block = measuring.choose_block(task, case, protocol.draws // protocol.chunks)
    draw = measuring.draw_program(task, case, block)
    arguments = task.arguments(task.start(case.estimator, case.num_samples))
    return functools.partial(draw, arguments, jax.random.key(0), 0), block.size
