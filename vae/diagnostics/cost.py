"""Cost of a gradient estimate: FLOP, evaluations of f, and wall-clock time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params

from vae.devices.cpu import on_cpu
from vae.estimators.contract import Estimator, bind, mean
from vae.estimators.parts.counting import count_evaluations, fast_compilation

PyTree = Any


def flops(function: Callable, *args) -> float:
    """FLOP of the function, compiled for the CPU, as XLA counts them, except that loops are counted in full.

    The count is for the CPU on every machine, because XLA counts no FLOP in the library calls that multiply matrices on
    a GPU.

    XLA counts the body of a loop once. This function counts the body of a scan or map once for each round. The body of
    a `while_loop` counts once, because its number of rounds depends on data. Of the branches of a `cond` or `switch`,
    the most expensive counts, so an estimator that draws its number of samples is charged for the largest.
    """
    shape_of = lambda leaf: jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf  # arrays may be on a GPU
    with on_cpu():
        return _flops(jax.jit(function).trace(*jax.tree.map(shape_of, args))).in_full


class _Flops(NamedTuple):
    """FLOP of a program: as XLA counts them, and with every loop in full."""

    by_xla: float
    in_full: float


def _flops(program: jax.stages.Traced) -> _Flops:
    by_xla = _counted_by_xla(program)
    in_full = by_xla
    for loop in _outermost(program.jaxpr.jaxpr, ("scan",)):  # `lax.map` is a scan too
        body = loop.params["jaxpr"]
        body = _flops(jax.jit(jaxpr_as_fun(body)).trace(*body.in_avals))
        in_full += loop.params["length"] * body.in_full - body.by_xla
    return _Flops(by_xla, in_full)


def _counted_by_xla(program: jax.stages.Traced) -> float:
    compiled = program.lower().compile(fast_compilation())
    # XLA names no FLOP, or -1, for a program that only moves data.
    return max(0.0, float((compiled.cost_analysis() or {}).get("flops", 0.0)))


def _outermost(jaxpr: Jaxpr, names: tuple[str, ...]) -> Iterator[JaxprEqn]:
    """The outermost equations of a program with these primitives, also those inside the functions that it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in names:
            yield equation
        else:
            for called in jaxprs_in_params(equation.params):
                yield from _outermost(called, names)


class HostCalls(NamedTuple):
    """The calls of Python functions on the host, such as a simulator in NumPy, from inside a program.

    Attributes:
      names: the names of the primitives that call the host, without duplicates; empty if none does.
      are_differentiable: whether all of the calls are inside functions with a derivative of their own, which
        `jax.custom_jvp` and `jax.custom_vjp` make.
    """

    names: tuple[str, ...]
    are_differentiable: bool


def host_calls(function: Callable, *args) -> HostCalls:
    """The calls of the host in the traced function. XLA counts no FLOP of them. `jax.debug` calls are left out."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    names = dict.fromkeys(equation.primitive.name for equation in _outermost(jaxpr, _HOST))
    without_derivative = [
        equation for equation in _outermost(jaxpr, _HOST + _OWN_DERIVATIVE) if equation.primitive.name in _HOST
    ]
    return HostCalls(tuple(names), not without_derivative)


_HOST = ("pure_callback", "io_callback")
_OWN_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call")


def evaluations(
    bound: Callable, estimator: Estimator, key: Array, params, data=None, learned=None, counted=None, context=None
) -> float:
    """Number of samples z at which an estimator evaluates f for one gradient of one datum.

    The arguments are those of `make_gradient` and of its gradient. `count_evaluations` has the rules of the count.
    """

    def estimate(watch, key, params, data, learned, counted, context):
        expect = bind(estimator, learned, counted, key, context)
        watching = lambda q, f, reduce=mean, log_q_weight=0.0: expect(q, watch(f), reduce, log_q_weight)
        bound(params, data, watching)

    return count_evaluations(estimate, key, params, data, learned, counted, context)


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
