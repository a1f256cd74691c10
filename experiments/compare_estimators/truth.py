"""The true gradient of a task: from an oracle, a sum over all states, a quadrature, or many draws of a reference."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import store as storage
from experiments.common.candidates import ORACLE, Case
from experiments.common.measuring import REFERENCE, Draws, Protocol, draw_moments, learn
from experiments.common.store import Store
from experiments.common.task import Refused, Task, least_samples
from vae import diagnostics
from vae.diagnostics import Truth
from vae.estimators import BY_NAME
from vae.estimators.exact import nodes

PyTree = Any

# Largest number of terms of a sum or quadrature.
MAX_TERMS = 2**16


class KnownTruth(NamedTuple):
    """The true gradient, and its origin in words for the tables."""

    source: str
    truth: Truth


def find_truth(task: Task, num_samples: int, protocol: Protocol, store: Store) -> KnownTruth:
    """The true gradient with K = `num_samples`. The mean of a reference is stored.

    Raises:
      Refused: if the reference does not work with this K.
    """
    gradient = task.problem.oracle(task.objective, num_samples)
    if gradient is not None:
        return KnownTruth(f"exact ({task.problem.exact_by})", diagnostics.exactly(gradient))
    exact = sum_or_quadrature(task, num_samples)
    if exact is not None:
        method, gradient = exact
        return KnownTruth(f"exact ({method})", diagnostics.exactly(gradient))
    name = protocol.reference
    num_samples = _samples_of_reference(task, name, num_samples)
    try:
        flops = task.cost("flops", name, num_samples)
    except Refused as error:
        raise Refused(f"--reference={name} with K={num_samples}: {error}") from None
    case = Case(name, num_samples, slot=0, evaluations=0, flops=flops)

    def measure():
        start = learn(task, name, num_samples, protocol)
        draws = Draws(protocol.reference_draws, protocol.chunks, protocol.key(REFERENCE))
        truth = jax.jit(diagnostics.reference)(draw_moments(task, case, start, draws))
        numbered = lambda tree: {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
        return {"gradient": numbered(truth.gradient), "stderr": numbered(truth.stderr), "along": truth.along}

    stored = store.recall(digest("reference", task, case, protocol), measure)

    def tree(name: str) -> PyTree:
        leaves = [jnp.asarray(stored[name][str(i)]) for i in range(len(stored[name]))]
        return jax.tree.unflatten(jax.tree.structure(task.problem.params), leaves)

    source = f"mean of {protocol.reference_draws:,} draws of {name}, K={num_samples}"
    return KnownTruth(source, Truth(tree("gradient"), tree("stderr"), stored["along"]))


def digest(what: str, task: Task, case: Case, protocol: Protocol) -> str | None:
    """The digest of everything that a measurement of this case depends on; None if the problem has no identity."""
    if task.problem.identity is None:
        return None
    decisive = protocol._asdict()
    for name in ("rounds", "confidence"):  # they change the times and the intervals, not the draws
        del decisive[name]
    return storage.digest(
        what=what,
        problem=task.problem.identity,
        objective=task.objective,
        estimator=case.estimator,
        num_samples=case.num_samples,
        protocol=decisive,
    )


def _samples_of_reference(task: Task, name: str, num_samples: int) -> int:
    """K of the reference: `num_samples`, or the least K that it works with.

    Raises:
      Refused: if that K is larger than `num_samples` and the bound depends on K.
    """
    least = least_samples(name)
    if num_samples < least and task.is_multi_sample:
        raise Refused(
            f"--reference={name} needs K={least}, and --objective={task.objective} is a different bound for "
            f"K={num_samples}; take --num_samples={least} or another --reference"
        )
    return max(num_samples, least)


def sum_or_quadrature(task: Task, num_samples: int) -> tuple[str, PyTree] | None:
    """The exact gradient as (method, gradient), from the sum over all states or from a quadrature.

    A quadrature counts only if two orders of it agree. None if neither method works.
    """
    if task.refusal(ORACLE) is not None:
        return None
    q, reduce, _ = task.expectations[0]
    orders = _orders(q, 1 if reduce.additive else num_samples)
    if not orders:
        return None
    gradients = [_exact_gradient(task, num_samples, order) for order in orders]
    if len(gradients) == 1:
        return "sum over all states", gradients[0]
    lower, higher = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in gradients)
    if not np.linalg.norm(lower - higher) <= 1e-5 * np.linalg.norm(higher):
        return None
    return f"quadrature, order {orders[1]}", gradients[1]


def _exact_gradient(task: Task, num_samples: int, order: int) -> PyTree:
    """The gradient, in float64, by the estimator that computes expectations exactly (`ORACLE`)."""
    problem = task.problem
    estimator = BY_NAME[ORACLE].make(num_samples=num_samples, order=order)
    gradient = diagnostics.make_gradient(task.bound, estimator)
    with jax.enable_x64(True):
        double = lambda leaf: jnp.asarray(leaf, jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)
        params, data, context = jax.tree.map(double, (problem.params, problem.data, problem.context))
        exact = jax.jit(gradient)(params, data, {}, {}, context, jax.random.key(0))
        return jax.tree.map(np.asarray, exact)


def _orders(q, tuple_size: int) -> list[int]:
    """The orders to integrate with: half and full order of a quadrature, or [1] for a sum over states.

    [] if neither is possible within MAX_TERMS terms.
    """
    try:
        states = [len(jax.eval_shape(functools.partial(nodes, order=order), q)[0]) for order in (2, 3)]
    except ValueError:
        return []
    if states[0] == states[1]:  # the number of states does not depend on the order
        return [1] if states[0] ** tuple_size <= MAX_TERMS else []
    width = round(math.log2(states[0])) * tuple_size
    order = min(96, int(MAX_TERMS ** (1 / width) + 1e-9))
    return [order // 2, order] if order >= 16 else []
