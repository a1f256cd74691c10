"""The number of samples at which an estimate evaluates its integrand."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae.estimators.contract import LogJoint


def fast_compilation() -> dict[str, Any]:
    """Options for a program that runs seldom. On a CPU the machine code, but not the program, stays unoptimized."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def count_evaluations(estimate: Callable, key: Array, *arguments) -> float:
    """Number of samples z at which `estimate(watch, key, *arguments)` evaluates f for one datum.

    `estimate` passes each integrand f through `watch(f)`, which records its calls. `estimate` runs three times. A
    second call at the same z, such as DReG's, is not counted, because XLA removes it. Equal discrete samples within one
    call are all counted. If two calls happen to draw exactly the same samples, the second is not counted, so the result
    is the largest count of the three runs.

    If an estimator draws at random which of its calls are run, as `mlmc` does, the result is the mean of 1000 runs.
    """
    calls: set[tuple] = set()
    rows: list[int] = []  # of each call that is run
    new_rows: list[int] = []
    traced: list[None] = []

    def record(number, fingerprints):
        call = (number, *(int(part) for fingerprint in fingerprints for part in fingerprint))
        rows.append(number)
        new_rows.append(0 if call in calls else number)
        calls.add(call)

    def watch(f):
        if isinstance(f, LogJoint):
            return dataclasses.replace(f, log_likelihood=watch(f.log_likelihood))

        def watched(z):
            traced.append(None)
            leaves = jax.tree.leaves(jax.lax.stop_gradient(z))
            # Where jax has one thread, it waits forever for a large argument of a callback (jax-ml/jax#24255).
            jax.debug.callback(functools.partial(record, len(leaves[0])), [_fingerprint(leaf) for leaf in leaves])
            return f(z)

        return watched

    @functools.partial(jax.jit, compiler_options=fast_compilation())
    def run(i, key, *arguments):
        """Returns nothing, so XLA leaves out every value of f on which no sample depends."""
        estimate(watch, jax.random.fold_in(key, i), *arguments)

    def count(i):
        """The number of samples of all calls in the i-th run, and the same without calls that repeat another."""
        for recorded in (calls, rows, new_rows):
            recorded.clear()
        run(i, key, *arguments)
        jax.effects_barrier()
        return sum(rows), sum(new_rows), len(rows)

    counts = [count(i) for i in range(3)]
    if counts[0][2] < len(traced):
        counts += [count(i) for i in range(3, 1000)]
    samples, new_samples, _ = zip(*counts, strict=True)
    return max(new_samples) if len(set(samples)) == 1 else round(float(np.mean(new_samples)), 1)


def _fingerprint(x: Array) -> Array:
    """Two numbers that hardly any other array of this shape and dtype has: sums over its words of a hash of the word
    and its place."""
    wide = x if x.dtype.itemsize > 1 else x.astype(jnp.uint16)
    words = jax.lax.bitcast_convert_type(wide, jnp.uint16).reshape(-1).astype(jnp.uint32)
    places = 2 * jnp.arange(words.size, dtype=jnp.uint32)
    return jnp.stack([jnp.sum(_hash(words + _hash(places + salt)), dtype=jnp.uint32) for salt in (0, 1)])


def _hash(x: Array) -> Array:
    """A hash of each uint32: shifts and products with odd numbers."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
