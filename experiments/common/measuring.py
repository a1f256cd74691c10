"""Measures one estimator on one task: the moments and the figures of its gradient."""

import functools
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

from experiments.common import store
from experiments.common.candidates import Case
from experiments.common.problems import Start
from experiments.common.task import Task, make_estimator
from vae import diagnostics
from vae.diagnostics import Moments, Truth
from vae.estimators import Estimator, bind

# Networks with more parameters are measured one draw at a time, and in fewer chunks.
LARGE = 20_000
# For a large network, the directional figures use every n-th draw.
DIRECTED_EVERY = 8
# Adam's learning rate for the parameters of an estimator.
LEARNING_RATE = 1e-2
# Each use of randomness has its own stream of keys.
DRAWS, REFERENCE, TRAINING = range(3)


class Protocol(NamedTuple):
    """How all estimators are measured.

    Attributes:
      draws: number of gradients of each estimator.
      reference_draws: number of gradients that the reference averages.
      reference: the estimator whose mean is the reference.
      chunks: number of equal chunks of draws, which the bootstrap resamples.
      replicates: number of bootstrap replicates.
      cv_steps: number of Adam steps on the estimator's own parameters; each step also updates its state.
      seed: seed of all draws.
      confidence: level of every interval, and of all comparisons in a table at once.
      rounds: number of rounds of timing.
    """

    draws: int
    reference_draws: int
    reference: str
    chunks: int
    replicates: int
    cv_steps: int
    seed: int
    confidence: float
    rounds: int

    def key(self, stream: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), stream)


def digest(what: str, task: Task, estimator: str, num_samples: int, protocol: Protocol | None = None) -> str | None:
    """The digest of everything that a measurement of this estimator depends on.

    None if the problem has no identity. A measurement without draws, such as a cost, has no `protocol`.
    """
    if task.problem.identity is None:
        return None
    decisive = protocol._asdict() if protocol else {}
    for name in ("rounds", "confidence", "replicates"):  # these change the times and the intervals, but not the draws
        decisive.pop(name, None)
    return store.digest(
        what=what,
        problem=task.problem.identity,
        objective=task.objective,
        estimator=estimator,
        num_samples=num_samples,
        protocol=decisive,
    )


class Measurement(NamedTuple):
    """The figures of each part of the gradient, and some of them by chunk of draws, `[chunks]`, for intervals."""

    figures: dict[str, dict[str, float]]
    by_chunk: dict[str, dict[str, np.ndarray]]


class Draws(NamedTuple):
    """Which gradients are drawn: `number` of them, in `chunks` equal runs, from `key`."""

    number: int
    chunks: int
    key: jax.Array


def measure(task: Task, case: Case, protocol: Protocol, truth: Truth) -> Measurement:
    """Bias, variance and the other figures of one estimator, after its own parameters were trained."""
    start = learn(task, case.estimator, case.num_samples, protocol)
    draws = Draws(protocol.draws, protocol.chunks, protocol.key(DRAWS))
    moments = draw_moments(task, case, start, draws, truth)
    figures = jax.device_get(_report(moments, truth))
    by_chunk = jax.device_get(_figures_by_chunk(moments))
    figures = {part: {key: finite_or_nan(value) for key, value in row.items()} for part, row in figures.items()}
    return Measurement(figures, by_chunk)


_report = jax.jit(diagnostics.report)
_figures_by_chunk = jax.jit(diagnostics.figures_by_chunk)


def draw_moments(task: Task, case: Case, start: Start, draws: Draws, truth: Truth | None = None) -> Moments:
    """Moments of the gradients. Without a truth, the directional figures are NaN."""
    block = block_size(task, case, draws.number // draws.chunks)
    directed_every = DIRECTED_EVERY if is_large(task) else 1
    estimator = make_estimator(case.estimator, case.num_samples)
    program = _moments_program(task.bound, estimator, draws.number, draws.chunks, block, directed_every)
    return jax.block_until_ready(program(task.arguments(start), draws.key, truth))


@functools.lru_cache(1)  # the points of a sweep share one program, and earlier programs are not needed again
def _moments_program(bound, estimator: Estimator, number: int, chunks: int, block: int, directed_every: int):
    gradient = diagnostics.make_gradient(bound, estimator)

    @jax.jit
    def moments(arguments, key, truth):
        draw = lambda key: gradient(key, *arguments)
        return diagnostics.gradient_moments(draw, key, number, chunks, block, truth, directed_every)

    return moments


def learn(task: Task, name: str, num_samples: int, protocol: Protocol) -> Start:
    """The estimator's parameters and state after Adam has minimised its cv_loss, with q fixed."""
    estimator = make_estimator(name, num_samples)
    start = task.start(name, num_samples)
    if not jax.tree.leaves(start) or not protocol.cv_steps:
        return start
    tx = optax.adam(LEARNING_RATE)

    @jax.jit
    def run(carry, keys, params, data, context):
        def step(carry, key):
            (learned, counted), opt_state = carry

            def loss(learned):
                estimate = task.bound(params, data, bind(estimator, learned, counted, key, context))
                return estimate.cv_loss, estimate.state

            grads, counted_next = jax.grad(loss, has_aux=True)(learned)
            updates, opt_state = tx.update(grads, opt_state)
            return (Start(optax.apply_updates(learned, updates), counted_next), opt_state), None

        return jax.lax.scan(step, carry, keys)[0]

    keys = jax.random.split(protocol.key(TRAINING), protocol.cv_steps)
    problem = task.problem
    return run((start, tx.init(start.learned)), keys, problem.params, problem.data, problem.context)[0]


def number_of_chunks(draws: int, most: int) -> int:
    """The number of equal chunks, from 10 to `most`, each with two draws or more.

    Raises:
      ValueError: if there is no such number. The message names a number of draws that works.
    """
    for chunks in range(min(most, draws // 2), 9, -1):
        if draws % chunks == 0:
            return chunks
    chunks = "10" if most == 10 else f"10 to {most}"
    raise ValueError(f"--draws={draws} cannot be cut into {chunks} equal chunks; take {max(20, -(-draws // 10) * 10)}")


def block_size(task: Task, case: Case, chunk: int) -> int:
    """How many draws are made side by side: a divisor of `chunk`, 1 for large networks, thousands for small costs."""
    most = 1 if is_large(task) else max(1, min(4096, int(4e6 / max(case.flops, 20 * task.size, 1))))
    return max(block for block in range(1, min(chunk, most) + 1) if chunk % block == 0)


def is_large(task: Task) -> bool:
    return task.size > LARGE


def free_programs(task: Task) -> None:
    """Frees the compiled programs of a large network, tens of MB each. Small problems keep their programs."""
    if is_large(task):
        jax.clear_caches()


def progress(items: Iterable, title: str = "estimators") -> tqdm:
    """A progress bar on terminals, and nothing elsewhere."""
    return tqdm(items, title, leave=False, disable=not sys.stdout.isatty())


def finite_or_nan(value) -> float:
    return float(value) if math.isfinite(value) else math.nan
