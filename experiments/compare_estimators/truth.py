"""The true gradient of a task: from an oracle, a sum over all states, a quadrature, or many draws of a reference."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.budget import Refused
from experiments.common.candidates import ORACLE, Case
from experiments.common.grammar import least_samples
from experiments.common.measuring import REFERENCE, Draws, Protocol, digest, draw_moments, learn
from experiments.common.store import Store
from experiments.common.task import Task
from vae import diagnostics
from vae.devices.cpu import on_cpu
from vae.diagnostics import Truth
from vae.diagnostics.expectations import Expectation
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME
from vae.estimators.exact import nodes

PyTree = Any


class KnownTruth(NamedTuple):
    """The true gradient, and its origin in words for the tables."""

    source: str
    truth: Truth


def find_truth(task: Task, num_samples: int, protocol: Protocol, store: Store) -> KnownTruth:
    """The true gradient with K = `num_samples`. Gradients that take long to compute are stored.

    Raises:
      Refused: if the reference does not work with this K, or if the latents are quantized with certainty.
    """
    gradient = task.problem.oracle(task.objective, num_samples)
    if gradient is not None:
        return KnownTruth(f"exact ({task.problem.exact_by})", _exactly(gradient))
    exact = _recall_exact(task, num_samples, store)
    if exact is not None:
        method, gradient = exact
        return KnownTruth(f"exact ({method})", _exactly(gradient))
    if getattr(task.posterior, "is_deterministic", False):
        raise Refused(
            "the codes of this posterior are certain, so the exact gradient in the encoding is zero almost everywhere;"
            " --problem=quantized has a gradient to compare with, and posterior=stochastic_vq a sum over all states"
        )
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
        truth = _reference(draw_moments(task, case, start, draws))
        return {field: _leaves_by_number(tree) for field, tree in truth._asdict().items()}

    stored = store.recall(digest("reference", task, name, num_samples, protocol), measure)
    truth = jax.device_put(Truth(**{field: _like_params(task, leaves) for field, leaves in stored.items()}))
    return KnownTruth(f"mean of {protocol.reference_draws:,} draws of {name}, K={num_samples}", truth)


_exactly = jax.jit(diagnostics.exactly)
_reference = jax.jit(diagnostics.reference)


def _recall_exact(task: Task, num_samples: int, store: Store) -> tuple[str, PyTree] | None:
    """The result of `sum_or_quadrature`, from the store if it is there."""

    def compute():
        exact = sum_or_quadrature(task, num_samples)
        return {} if exact is None else {"method": exact[0], "gradient": _leaves_by_number(exact[1])}

    stored = store.recall(digest("exact", task, ORACLE, num_samples), compute)
    return (stored["method"], _like_params(task, stored["gradient"])) if stored else None


def _leaves_by_number(tree: PyTree) -> dict[str, Any]:
    """The leaves of a gradient as a dict, which the store can hold."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _like_params(task: Task, leaves: dict[str, Any]) -> PyTree:
    """The gradient with these leaves."""
    in_order = [leaves[str(i)] for i in range(len(leaves))]
    return jax.tree.unflatten(jax.tree.structure(task.problem.params), in_order)


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

    A quadrature is accepted only if two of its orders give the same gradient. None if neither method works.
    """
    if task.refusal(ORACLE) is not None:
        return None
    method = _choose_method(task.expectations, num_samples)
    if method is None:
        return None
    if method.is_sum:
        return "sum over all states", _exact_gradient(task, num_samples, method.order)
    gradients = [_exact_gradient(task, num_samples, order) for order in (method.order // 2, method.order)]
    lower, higher = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in gradients)
    if not np.linalg.norm(lower - higher) <= 1e-5 * np.linalg.norm(higher):
        return None
    return f"quadrature, order {method.order}", gradients[1]


def _exact_gradient(task: Task, num_samples: int, order: int) -> PyTree:
    """The gradient by the estimator that computes expectations exactly (`ORACLE`), in float64.

    If f calls the host, float32 remains: a function on the host need not return what float64 would ask for.
    """
    problem = task.problem
    gradient = _exact_program(task.bound, num_samples, order)
    with on_cpu(), jax.enable_x64(not task.host_calls.names):
        double = lambda leaf: np.asarray(leaf, np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)
        params, data, context = jax.tree.map(double, (problem.params, problem.data, problem.context))
        exact = gradient(jax.random.key(0), params, data, context=context)
        return jax.tree.map(np.asarray, exact)


@functools.cache  # so that the points of a sweep share one compiled program
def _exact_program(bound: Callable, num_samples: int, order: int) -> Callable:
    estimator = BY_NAME[ORACLE].make(num_samples=num_samples, order=order)
    return jax.jit(diagnostics.make_gradient(bound, estimator))


class _Method(NamedTuple):
    """How an expectation is computed: a sum over all states, or a quadrature of this order in each dimension."""

    is_sum: bool
    order: int


def _choose_method(recorded: list[Expectation], num_samples: int) -> _Method | None:
    """The method for the expectations of a bound of K = `num_samples` samples.

    None if the latents have too many states, or if a quadrature with as many terms would have an order below 16.
    """
    q, reduce, *_ = recorded[0]
    if isinstance(q, Bernoulli | Categorical):
        return _Method(is_sum=True, order=1) if diagnostics.has_few_states(recorded, num_samples) else None
    try:
        terms = len(jax.eval_shape(functools.partial(nodes, order=2), q)[0])
    except ValueError:  # q has no quadrature
        return None
    dimensions = round(math.log2(terms)) * (1 if reduce.additive else num_samples)
    order = min(96, int(diagnostics.MAX_TERMS ** (1 / dimensions) + 1e-9))  # a quadrature has order^dimensions terms
    return _Method(is_sum=False, order=order) if order >= 16 else None
