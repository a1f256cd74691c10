"""The candidates of `auto`, and the numbers of samples that a budget of evaluations buys."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae.estimators.contract import Estimator
from vae.estimators.entry import BY_NAME
from vae.estimators.parts.counting import count_evaluations

# The candidates for each kind of latents, if none are named. Those that do not fit the bound are left out.
PATHWISE = ("reparam", "stl", "dreg")
BITS = ("disarm", "leave_one_out", "relax")
CLASSES = ("leave_one_out", "relax")


class Candidate(NamedTuple):
    """An estimator, and the number of samples at which it evaluates f for one datum."""

    estimator: Estimator
    evaluations: int
    biased: bool


def default_names(q: Any) -> tuple[str, ...]:
    """The names of the candidates for the family of q, if the user names none."""
    if hasattr(q, "rsample"):
        return PATHWISE
    return BITS if type(q).__name__ == "Bernoulli" else CLASSES


def fitting(named: tuple[str, ...], budget: int, q, f, reduce, log_q_weight, context) -> dict[str, Candidate]:
    """The candidates for an expectation, with the numbers of samples that the budget buys.

    Raises:
      ValueError: if a candidate that was named does not fit.
    """
    candidates = {}
    for name in named or default_names(q):
        refusal = BY_NAME[name].refusal(q, reduce, log_q_weight, f=f)
        if refusal is None:
            candidates[name] = _buy(name, budget, q, reduce, log_q_weight, context)
        elif named:
            raise ValueError(refusal)
    return candidates


def _buy(name: str, budget: int, q, reduce, log_q_weight, context) -> Candidate:
    """The candidate with the largest number of samples within the budget, or with its smallest number."""
    least = BY_NAME[name].min_samples
    shapes, structure = jax.tree.flatten(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (q, context))
    )
    weight = float(log_q_weight) if isinstance(log_q_weight, int | float) else 1.0
    for num_samples in range(max(budget, least), least - 1, -1):
        try:
            evaluations = _evaluations(name, num_samples, structure, tuple(shapes), reduce, weight)
        except ValueError:  # some estimators refuse odd numbers
            if num_samples == least:
                raise
            continue
        if evaluations <= budget or num_samples == least or not reduce.additive:
            break
    return Candidate(BY_NAME.make(name, num_samples=num_samples), evaluations, BY_NAME[name].biased)


@functools.lru_cache(maxsize=1024)
def _evaluations(name: str, num_samples: int, structure, shapes, reduce, log_q_weight: float) -> int:
    """The number of samples at which one estimate evaluates f for one datum, for a random q of these shapes."""
    estimator = BY_NAME.make(name, num_samples=num_samples)

    def estimate(watch, key, q, context):
        over_event = lambda leaf: jnp.sum(jnp.square(leaf), axis=tuple(range(1 + len(q.batch_shape), leaf.ndim)))
        f = watch(lambda z: sum(map(over_event, jax.tree.leaves(z))))
        estimator.estimate(*estimator.init(key, q, context), key, q, f, reduce, log_q_weight, context)

    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        fill = lambda shape: jnp.asarray(rng.normal(size=shape.shape), shape.dtype)
        arguments = jax.tree.unflatten(structure, map(fill, shapes))
        return count_evaluations(estimate, jax.random.key(0), *arguments)
