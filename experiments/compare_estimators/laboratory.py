"""The laboratory's measuring: the moments, the truth and the time of every estimator on a problem."""

import contextlib
import ctypes
import functools
import itertools
import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.common import candidates
from experiments.common.candidates import Case, Refused
from experiments.common.options import entry
from experiments.common.problems import Problem
from experiments.common.store import Store, digest_of
from vae import diagnostics
from vae.diagnostics import Truth
from vae.estimators import BY_NAME, Estimator, bind
from vae.estimators.exact import nodes

# A quadrature or an enumeration is taken for the truth up to so many terms.
MAX_TERMS = 2**16
# Nets larger than this are measured one draw at a time, and in fewer chunks.
LARGE = 20_000
# Of a large net, the directional figures are of every n-th draw.
DIRECTED_EVERY = 8
ADAM = 1e-2
DRAWS, REFERENCE, TRAINING, PICKS = range(4)  # what has a stream of keys of its own


class Found(NamedTuple):
    """What was measured of one case at one point: the figures of each part and their bootstrap replicates."""

    case: Case
    problem: Problem
    truth: str
    figures: dict[str, dict[str, float]]
    replicates: dict[str, dict[str, np.ndarray]]
    chunks: int


class Protocol(NamedTuple):
    """How everything is measured; the same for all estimators."""

    draws: int
    reference_draws: int
    reference: str
    chunks: int
    replicates: int
    cv_steps: int
    seed: int
    confidence: float
    rounds: int


def cut(draws: int, most: int) -> int:
    """The number of equal chunks, from 10 to `most`, of two draws or more.

    Raises:
      ValueError: if there is none, naming a number of draws that has.
    """
    for chunks in range(min(most, draws // 2), 9, -1):
        if draws % chunks == 0:
            return chunks
    chunks = "10" if most == 10 else f"10 to {most}"
    raise ValueError(f"--draws={draws} cannot be cut into {chunks} equal chunks; take {max(20, -(-draws // 10) * 10)}")


def measure_all(
    points: list[Problem], objective: str, cases: list[Case], protocol: Protocol, store: Store | None = None
) -> list[Found]:
    """Every case at every point, each point's against the truth there. What is found is kept in `store`, and what was
    found before is taken from there."""
    several = candidates.multi_sample(points[0], objective)
    of = lambda case: case.num_samples if several else 1  # the mean over K samples has one gradient, whatever K
    with progress([None] * len(points) * (len({of(case) for case in cases}) + len(cases))) as bar:
        release(points[0])
        truths: dict[tuple[int, int], tuple[str, Truth]] = {}
        for k, (i, problem) in itertools.product(dict.fromkeys(map(of, cases)), enumerate(points)):
            bar.set_postfix_str(f"the truth, K={k}")
            truths[i, k] = find_truth(problem, objective, k, protocol, store)
            bar.update()
        found = {}
        for case in cases:
            release(points[0])
            for i, problem in enumerate(points):
                bar.set_postfix_str(f"{case.name}, K={case.num_samples}")
                found[i, case] = _recalled(store, problem, objective, case, protocol, *truths[i, of(case)])
                bar.update()
    release(points[0])
    return [found[i, case] for i in range(len(points)) for case in cases]


def release(problem: Problem) -> None:
    """Gives back the memory of what was compiled for a large net, tens of MB for each program. Small problems keep
    theirs, which are soon used again."""
    if size(problem) > LARGE:
        jax.clear_caches()
        _trim(problem)


def _trim(problem: Problem) -> None:
    """Gives back what the compiler has freed and the C library would keep for itself: hundreds of MB."""
    if size(problem) > LARGE:
        with contextlib.suppress(OSError, AttributeError):  # glibc has it
            ctypes.CDLL(None).malloc_trim(0)


def _recalled(store: Store | None, problem, objective, case: Case, protocol, source: str, truth: Truth) -> Found:
    """`measure`, unless it was done before."""

    def find():
        found = measure(problem, objective, case, protocol, source, truth, once=True)
        return {"figures": found.figures, "replicates": found.replicates}

    known = store.recall(_digest(problem, objective, case, protocol, truth), find) if store else find()
    return Found(case, problem, source, known["figures"], known["replicates"], protocol.chunks)


def _digest(problem: Problem, objective: str, case: Case, protocol: Protocol, truth: Truth | None = None) -> str:
    """Of all that a measurement of this case depends on; without a truth, that of the reference."""
    estimator = candidates.made(problem, case.name, case.num_samples)

    def all_of_it(params, data, context, learned, counted, truth):
        def value_and_loss(params, learned):
            expect = bind(estimator, learned, counted, jax.random.key(0), context)
            estimate = problem.bounds[objective](params, data, expect)
            return jnp.mean(estimate.value) + estimate.cv_loss

        return jax.grad(value_and_loss, argnums=(0, 1))(params, learned), truth

    initial = candidates.initial(problem, objective, case.name, case.num_samples)
    of = (
        case.name,
        case.num_samples,
        problem.temperature,
        problem.by_layer,
        protocol._replace(rounds=0, confidence=0.0),
    )
    return digest_of(all_of_it, problem.params, problem.data, problem.context, *initial, truth, of=of)


def measure(
    problem: Problem, objective: str, case: Case, protocol: Protocol, source: str, truth: Truth, once: bool = False
) -> Found:
    """Bias, variance and the other figures of one estimator at one point. `once`: a large net's programs are given back
    one after the other, at the price of compiling them again the next time."""
    tidy = release if once else _trim
    learned, counted = train(problem, objective, case.name, case.num_samples, protocol)
    tidy(problem)
    moments = jax.block_until_ready(
        _moments(problem, objective, case, protocol, protocol.draws, truth, learned, counted)
    )
    tidy(problem)
    figures = jax.device_get(_report(moments, truth))
    tidy(problem)
    replicates = jax.device_get(_bootstrap(moments, _key(protocol, PICKS), protocol.replicates))
    figures = {part: {key: finite(value) for key, value in row.items()} for part, row in figures.items()}
    return Found(case, problem, source, figures, replicates, protocol.chunks)


_report = jax.jit(diagnostics.report)
_bootstrap = jax.jit(diagnostics.bootstrap, static_argnums=2)


def _key(protocol: Protocol, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(protocol.seed), stream)


def _moments(problem, objective, case, protocol, draws, truth, learned, counted, stream=DRAWS):
    block = _block(draws // protocol.chunks, case.flops, size(problem))
    every = DIRECTED_EVERY if size(problem) > LARGE else 1
    bound = problem.bounds[objective]
    estimator = candidates.made(problem, case.name, case.num_samples)
    program = _moments_program(bound, estimator, draws, protocol.chunks, block, every)
    key = _key(protocol, stream)
    return program((problem.params, problem.data, learned, counted, problem.context), key, truth)


@functools.lru_cache(1)  # the one in use
def _moments_program(bound, estimator: Estimator, draws: int, chunks: int, block: int, directed_every: int):
    gradient = diagnostics.make_gradient(bound, estimator)

    @jax.jit
    def moments(arguments, key, truth):
        of_key = functools.partial(gradient, *arguments)
        return diagnostics.gradient_moments(of_key, key, draws, chunks, block, truth, directed_every)

    return moments


def _block(size: int, flops: float, parameters: int) -> int:
    """How many draws side by side: a divisor of `size`, one for large nets, thousands for a Gaussian's cost."""
    most = 1 if parameters > LARGE else max(1, min(4096, int(4e6 / max(flops, 20 * parameters, 1))))
    return max(b for b in range(1, min(size, most) + 1) if size % b == 0)


def size(problem: Problem) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(problem.params))


def train(problem: Problem, objective: str, name: str, num_samples: int, protocol: Protocol):
    """(learned, counted): what the estimator learns by Adam on its cv_loss, and what it counts, with q fixed."""
    estimator = candidates.made(problem, name, num_samples)
    learned, counted = candidates.initial(problem, objective, name, num_samples)
    if not jax.tree.leaves((learned, counted)) or not protocol.cv_steps:
        return learned, counted
    tx = optax.adam(ADAM)

    @jax.jit
    def run(carry, keys, params, data, context):
        def step(carry, key):
            learned, counted, opt_state = carry

            def loss(learned):
                expect = bind(estimator, learned, counted, key, context)
                estimate = problem.bounds[objective](params, data, expect)
                return estimate.cv_loss, estimate.state

            grads, counted_next = jax.grad(loss, has_aux=True)(learned)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(learned, updates), counted_next, opt_state), None

        return jax.lax.scan(step, carry, keys)[0]

    keys = jax.random.split(_key(protocol, TRAINING), protocol.cv_steps)
    carry = (learned, counted, tx.init(learned))
    return run(carry, keys, problem.params, problem.data, problem.context)[:2]


def find_truth(
    problem: Problem, objective: str, num_samples: int, protocol: Protocol, store: Store | None = None
) -> tuple[str, Truth]:
    """What the gradient really is, and how that is known: an oracle, a sum over all states, or many other draws, which
    are kept in `store`."""
    gradient = problem.oracle(objective, num_samples)
    if gradient is not None:
        return f"exact ({problem.exact_by})", diagnostics.exactly(gradient)
    if (found := summed(problem, objective, num_samples)) is not None:
        return f"exact ({found[0]})", diagnostics.exactly(found[1])
    name, least = protocol.reference, entry(protocol.reference).min_samples
    if num_samples < least:
        if candidates.multi_sample(problem, objective):
            raise Refused(
                f"--reference={name} needs K={least}, of which --objective={objective} is another bound than of "
                f"K={num_samples}; take --num_samples={least} or another --reference"
            )
        num_samples = least
    try:
        flops = candidates.cost(problem, objective, name, "flops", num_samples)
    except Refused as error:
        raise Refused(f"--reference={name} with K={num_samples}: {error}") from None
    case = Case(name, num_samples, 0, 0, flops)

    def find():
        learned, counted = train(problem, objective, name, num_samples, protocol)
        _trim(problem)
        draws = protocol.reference_draws
        moments = _moments(problem, objective, case, protocol, draws, None, learned, counted, stream=REFERENCE)
        jax.block_until_ready(moments)
        _trim(problem)
        truth = jax.jit(diagnostics.reference)(moments)
        numbered = lambda tree: {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
        return {"gradient": numbered(truth.gradient), "stderr": numbered(truth.stderr), "along": truth.along}

    found = store.recall(_digest(problem, objective, case, protocol), find) if store else find()
    tree = lambda name: jax.tree.unflatten(jax.tree.structure(problem.params), in_order(found[name]))
    in_order = lambda leaves: [jnp.asarray(leaves[str(i)]) for i in range(len(leaves))]
    truth = Truth(tree("gradient"), tree("stderr"), found["along"])
    return f"mean of {protocol.reference_draws:,} draws of {name}, K={num_samples}", truth


def summed(problem: Problem, objective: str, num_samples: int):
    """(how, gradient) by the sum over all states, or quadratures of two orders that agree; None where neither can."""
    calls = candidates.posteriors(problem, objective)
    if any(BY_NAME[candidates.ORACLE].refusal(*call) for call in calls):
        return None
    gradients = []
    orders = _orders(calls[0][0], 1 if calls[0][1].additive else num_samples)
    for order in orders:
        estimator = BY_NAME[candidates.ORACLE].make(num_samples=num_samples, order=order)
        gradient = diagnostics.make_gradient(problem.bounds[objective], estimator)
        with jax.enable_x64(True):
            double = lambda leaf: jnp.asarray(leaf, jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)
            params, data, context = jax.tree.map(double, (problem.params, problem.data, problem.context))
            found = jax.jit(gradient)(params, data, {}, {}, context, jax.random.key(0))
            gradients.append(jax.tree.map(np.asarray, found))
    if not gradients:
        return None
    if len(gradients) == 1:
        return "sum over all states", gradients[0]
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in gradients]
    if not np.linalg.norm(flat[0] - flat[1]) <= 1e-5 * np.linalg.norm(flat[1]):
        return None
    return f"quadrature, order {orders[1]}", gradients[1]


def _orders(q, tuple_size: int) -> list[int]:
    """Orders of quadrature within MAX_TERMS, half and whole; one where states are summed; none where too many."""
    try:
        states = [len(jax.eval_shape(functools.partial(nodes, order=order), q)[0]) for order in (2, 3)]
    except ValueError:
        return []
    if states[0] == states[1]:
        return [1] if states[0] ** tuple_size <= MAX_TERMS else []
    width = round(math.log2(states[0])) * tuple_size
    order = min(96, int(MAX_TERMS ** (1 / width) + 1e-9))
    return [order // 2, order] if order >= 16 else []


def time_all(problem: Problem, objective: str, cases: list[Case], protocol: Protocol) -> np.ndarray:
    """Seconds of one gradient of each case in each round, `[cases, rounds]`."""
    programs, counts = [], []
    for case in progress(cases, "timing"):
        estimator = candidates.made(problem, case.name, case.num_samples)
        gradient = diagnostics.make_gradient(problem.bounds[objective], estimator)
        block = _block(protocol.draws // protocol.chunks, case.flops, size(problem))
        initial = candidates.initial(problem, objective, case.name, case.num_samples)
        arguments = (problem.params, problem.data, *initial, problem.context)
        program = jax.jit(
            lambda arguments, steps, gradient=gradient, block=block: diagnostics.repeated(
                functools.partial(gradient, *arguments), jax.random.key(0), steps, block
            )
        )
        jax.block_until_ready(program(arguments, 1))
        _trim(problem)
        once = diagnostics.interleaved_seconds([lambda p=program, a=arguments: p(a, 1)], 3).min()
        steps = max(1, math.ceil(0.03 / once))
        programs.append(functools.partial(program, arguments, steps))
        counts.append(steps * block)
    return diagnostics.interleaved_seconds(programs, protocol.rounds) / np.array(counts)[:, None]


def progress(items, title: str = "estimators"):
    return tqdm(items, title, leave=False, disable=not sys.stdout.isatty())


def finite(value) -> float:
    return float(value) if math.isfinite(value) else math.nan
