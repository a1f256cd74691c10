"""Measures one estimator on one task: the moments and the figures of its gradient."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import store
from experiments.common.candidates import Case
from experiments.common.problems import Start
from experiments.common.task import Task, make_estimator
from vae import diagnostics
from vae.diagnostics import Moments, Truth
from vae.estimators import Estimator, bind

PyTree = Any

# Networks with more parameters draw one gradient after the other, and in fewer chunks.
LARGE = 20_000
# The size of a block of gradients of a network, in numbers.
BLOCK_NUMBERS = 1_000_000
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
      judge_by: the cost that decides which estimator is better: evaluations, flops or seconds.
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
    judge_by: str = "flops"

    def key(self, stream: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), stream)


def digest(what: str, task: Task, estimator: str, num_samples: int, protocol: Protocol | None = None) -> str | None:
    """The digest of everything that a measurement of this estimator depends on.

    None if the problem has no identity. A measurement without draws, such as a cost, has no `protocol`.
    """
    if task.problem.identity is None:
        return None
    decisive = protocol._asdict() if protocol else {}
    for name in ("rounds", "confidence", "replicates", "judge_by"):  # the draws do not depend on these
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


class Block(NamedTuple):
    """How many gradients one call of a program draws, and whether `vmap` draws them side by side."""

    size: int
    side_by_side: bool


def measure(task: Task, case: Case, protocol: Protocol, truth: Truth) -> Measurement:
    """Bias, variance and the other figures of one estimator, after its own parameters were trained."""
    start = learn(task, case.estimator, case.num_samples, protocol)
    draws = Draws(protocol.draws, protocol.chunks, protocol.key(DRAWS))
    moments = draw_moments(task, case, start, draws, truth)
    figures, by_chunk = jax.device_get(_figures(moments, truth))
    figures = {part: {key: finite_or_nan(value) for key, value in row.items()} for part, row in figures.items()}
    return Measurement(figures, by_chunk)


@jax.jit
def _figures(moments: Moments, truth: Truth):
    return diagnostics.report(moments, truth), diagnostics.figures_by_chunk(moments)


def draw_moments(task: Task, case: Case, start: Start, draws: Draws, truth: Truth | None = None) -> Moments:
    """Moments of the gradients. Without a truth, the directional figures are NaN.

    The blocks of gradients come from a program of the estimator. The program that adds them to the moments serves every
    estimator.
    """
    size = draws.number // draws.chunks
    block = choose_block(task, case, size)
    draw = draw_program(task, case, block)
    arguments = task.arguments(start)
    directed_every = DIRECTED_EVERY if is_large(task) else 1
    chunks = []
    for chunk in range(draws.chunks):
        running = _no_moments(task.problem.params)
        for first in range(chunk * size, (chunk + 1) * size, block.size):
            running = _add_gradients(running, draw(arguments, draws.key, first, 1), truth, directed_every)
        chunks.append(running)
    return diagnostics.join_chunks(jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(chunks)))


_no_moments = jax.jit(diagnostics.no_moments)
_add_gradients = jax.jit(diagnostics.add_gradients, static_argnames="directed_every")


def draw_program(task: Task, case: Case, block: Block) -> Callable:
    """A compiled function `draw(arguments, key, first, rounds)`, which draws `rounds` blocks and returns the last.

    The draws begin with number `first`. `arguments` are those of `task.gradient`. Many rounds are drawn for timing.
    """
    return _draw_program(task.gradient(case.estimator, case.num_samples), block)


@functools.cache  # the points of a sweep, the reference and the timing share one program
def _draw_program(gradient: Callable, block: Block) -> Callable:
    @jax.jit
    def draw(arguments, key, first, rounds):
        draw_one = lambda key: gradient(key, *arguments)
        draw_block = lambda i, _: diagnostics.draw_gradients(draw_one, key, first + i * block.size, *block)
        zeros = jax.tree.map(lambda leaf: jnp.zeros((block.size, *leaf.shape), leaf.dtype), arguments[0])
        return jax.lax.fori_loop(0, rounds, draw_block, zeros)

    return draw


def learn(task: Task, name: str, num_samples: int, protocol: Protocol) -> Start:
    """The estimator's parameters and state after Adam has minimised its cv_loss, with q fixed."""
    estimator = make_estimator(name, num_samples)
    start = task.start(name, num_samples)
    if not jax.tree.leaves(start) or not protocol.cv_steps:
        return start
    problem = task.problem
    run = jax.jit(functools.partial(minimise_cv_loss, task.bound, estimator, steps=protocol.cv_steps))
    return run(start, protocol.key(TRAINING), problem.params, problem.data, problem.context)


def minimise_cv_loss(
    bound: Callable,
    estimator: Estimator,
    start: Start,
    key: jax.Array,
    params: PyTree,
    data: PyTree,
    context: PyTree,
    *,
    steps: int,
) -> Start:
    """The estimator's parameters and state after `steps` steps of Adam on its cv_loss, at fixed params and data."""
    tx = optax.adam(LEARNING_RATE)

    def step(carry, key):
        (learned, counted), opt_state = carry

        def loss(learned):
            estimate = bound(params, data, bind(estimator, learned, counted, key, context))
            return estimate.cv_loss, estimate.state

        grads, counted_next = jax.grad(loss, has_aux=True)(learned)
        updates, opt_state = tx.update(grads, opt_state)
        return (Start(optax.apply_updates(learned, updates), counted_next), opt_state), None

    return jax.lax.scan(step, (start, tx.init(start.learned)), jax.random.split(key, steps))[0][0]


def number_of_chunks(draws: int, most: int) -> int:
    """The number of equal chunks, from 10 to `most`, each with two draws or more.

    Raises:
      ValueError: if there is no such number. The message names a number of draws that works.
    """
    for chunks in range(min(most, draws // 2), 9, -1):
        if draws % chunks == 0:
            return chunks
    raise ValueError(f"--draws={draws}: give a multiple of 10, such as {max(20, -(-draws // 10) * 10)}")


def choose_block(task: Task, case: Case, chunk: int) -> Block:
    """The block of gradients in one call: a divisor of `chunk`, the number of draws in a chunk.

    Small problems draw thousands of cheap gradients side by side. A network draws a few one after the other.
    """
    if is_large(task):
        most = min(25, max(4, BLOCK_NUMBERS // task.size))
    else:
        most = max(1, min(4096, int(4e6 / max(case.flops, 20 * task.size, 1))))
    size = max(block for block in range(1, min(chunk, most) + 1) if chunk % block == 0)
    return Block(size, side_by_side=not is_large(task))


def is_large(task: Task) -> bool:
    return task.size > LARGE


def finite_or_nan(value) -> float:
    return float(value) if math.isfinite(value) else math.nan
