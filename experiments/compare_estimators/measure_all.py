"""Measures every case of every task, and the time of every case."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import numpy as np

from experiments.common.candidates import Case
from experiments.common.measuring import Measurement, Protocol, block_size, digest, free_programs, measure, progress
from experiments.common.store import Store
from experiments.common.task import Task, make_estimator
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
    with progress([None] * len(tasks) * (len(numbers) + len(cases))) as bar:
        free_programs(tasks[0])
        for num_samples, (i, task) in itertools.product(numbers, enumerate(tasks)):
            bar.set_postfix_str(f"the truth, K={num_samples}")
            truths[i, num_samples] = find_truth(task, num_samples, protocol, store)
            bar.update()
        for case in cases:
            free_programs(tasks[0])
            for i, task in enumerate(tasks):
                bar.set_postfix_str(f"{case.estimator}, K={case.num_samples}")
                results[i, case] = _recall(task, case, protocol, truths[i, samples_of_truth(case)], store)
                bar.update()
    free_programs(tasks[0])
    return [results[i, case] for i in range(len(tasks)) for case in cases]


def _recall(task: Task, case: Case, protocol: Protocol, known: KnownTruth, store: Store) -> Result:
    """The stored result, or a new one."""
    new = lambda: measure(task, case, protocol, known.truth)._asdict()
    measurement = Measurement(
        **store.recall(digest("estimator", task, case.estimator, case.num_samples, protocol), new)
    )
    return Result(task, case, known.source, measurement)


def time_all(task: Task, cases: list[Case], protocol: Protocol, store: Store) -> np.ndarray:
    """Seconds of one gradient of each case in each round, `[cases, rounds]`. Stored times serve only the same cases."""
    names = " ".join(f"{case.estimator} K={case.num_samples}" for case in cases)
    timing = digest(f"seconds in {protocol.rounds} rounds", task, names, num_samples=0, protocol=protocol)
    return store.recall(timing, lambda: {"seconds": _measure_seconds(task, cases, protocol)})["seconds"]


def _measure_seconds(task: Task, cases: list[Case], protocol: Protocol) -> np.ndarray:
    programs = []
    gradients = []  # number of gradients in one call of each program
    for case in progress(cases, "timing"):
        program, block = _timed_program(task, case, protocol)
        once = diagnostics.interleaved_seconds([lambda program=program: program(1)], 3).min()
        steps = max(1, math.ceil(SHORTEST / once))
        programs.append(functools.partial(program, steps))
        gradients.append(steps * block)
    return diagnostics.interleaved_seconds(programs, protocol.rounds) / np.array(gradients)[:, None]


def _timed_program(task: Task, case: Case, protocol: Protocol):
    """A compiled `program(steps)` that draws `steps * block` gradients, and the number `block`."""
    gradient = diagnostics.make_gradient(task.bound, make_estimator(case.estimator, case.num_samples))
    block = block_size(task, case, protocol.draws // protocol.chunks)

    @jax.jit
    def program(arguments, steps):
        return diagnostics.repeated(lambda key: gradient(key, *arguments), jax.random.key(0), steps, block)

    arguments = task.arguments(task.start(case.estimator, case.num_samples))
    jax.block_until_ready(program(arguments, 1))
    return functools.partial(program, arguments), block
