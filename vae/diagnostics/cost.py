"""Cost of a gradient estimate: FLOP, evaluations of f, and wall-clock time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params

from vae.estimators.contract import Estimator, bind, mean

PyTree = Any


def flops(function: Callable, *args) -> float:
    """FLOP of the compiled function as XLA counts them, except that loops are counted in full.

    XLA counts the body of a loop once. This function counts the body of a scan or map once for each round. The body of
    a `while_loop` counts once, because its number of rounds depends on data.
    """
    return _flops(jax.make_jaxpr(function)(*args))


def _flops(program: ClosedJaxpr) -> float:
    bodies = [(loop.params["length"], loop.params["jaxpr"]) for loop in _loops(program.jaxpr)]
    return _counted_by_xla(program) + sum(rounds * _flops(body) - _counted_by_xla(body) for rounds, body in bodies)


def _counted_by_xla(program: ClosedJaxpr) -> float:
    compiled = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals).compile()
    # XLA names no FLOP, or -1, for a program that only moves data.
    return max(0.0, float((compiled.cost_analysis() or {}).get("flops", 0.0)))


def _loops(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The outermost scans of a program (`lax.map` is a scan too), including scans inside the functions it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        else:
            for called in jaxprs_in_params(equation.params):
                yield from _loops(called)


def evaluations(
    bound: Callable, estimator: Estimator, key: Array, params, data=None, learned=None, counted=None, context=None
) -> int:
    """Number of samples z at which an estimator evaluates f for one gradient of one datum.

    The arguments are those of `make_gradient` and of its gradient. The bound runs three times, and each call of its
    integrand is recorded. A second call at the same z, such as DReG's, is not counted, because XLA removes it. Equal
    discrete samples within one call are all counted. If two calls happen to draw exactly the same samples, the second
    is not counted, so the result is the largest count of the three runs.
    """
    calls: set[bytes] = set()
    rows: list[int] = []

    def record(z):
        leaves = [np.asarray(leaf) for leaf in z]
        call = b"".join(leaf.tobytes() for leaf in leaves)
        rows.append(0 if call in calls else len(leaves[0]))
        calls.add(call)

    @jax.jit
    def run(key, params, data, learned, counted, context):
        expect = bind(estimator, learned, counted, key, context)

        def recording_expect(q, f, reduce=mean, log_q_weight=0.0):
            def recorded(z):
                jax.debug.callback(record, jax.tree.leaves(jax.lax.stop_gradient(z)))
                return f(z)

            return expect(q, recorded, reduce, log_q_weight)

        return bound(params, data, recording_expect).value

    counts = []
    for key_run in jax.random.split(key, 3):
        calls.clear()
        rows.clear()
        jax.block_until_ready(run(key_run, params, data, learned, counted, context))
        jax.effects_barrier()
        counts.append(sum(rows))
    return max(counts)


def repeated(gradient: Callable[[Array], PyTree], key: Array, steps: Array | int, block: int = 1) -> PyTree:
    """The sum of `steps * block` bare gradients, made `block` at a time: the baseline for the cost of the moments."""

    def step(i, total):
        if block == 1:
            g = gradient(jax.random.fold_in(key, i))
        else:
            g = jax.vmap(lambda j: gradient(jax.random.fold_in(key, j)))(block * i + jnp.arange(block))
            g = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), g)
        return jax.tree.map(jnp.add, total, g)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, key))
    return jax.lax.fori_loop(0, steps, step, zeros)


def interleaved_seconds(programs: Sequence[Callable[[], Any]], rounds: int = 7) -> np.ndarray:
    """Wall-clock seconds of each program in each round, `[programs, rounds]`.

    The programs take turns, so that a slow minute of the machine affects all of them. Each program runs once before
    the timing starts.
    """
    for program in programs:
        jax.block_until_ready(program())
    seconds = np.zeros((len(programs), rounds))
    for r in range(rounds):
        order = range(len(programs)) if r % 2 == 0 else reversed(range(len(programs)))
        for i in order:
            started = time.perf_counter()
            jax.block_until_ready(programs[i]())
            seconds[i, r] = time.perf_counter() - started
    return seconds
