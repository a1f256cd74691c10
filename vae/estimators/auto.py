"""An estimator that chooses among others: from time to time it measures their errors, and goes on with the best."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Estimate, Estimator
from vae.estimators.entry import BY_NAME
from vae.estimators.parts.counting import count_evaluations

# The candidates for each kind of latents, if none are named. Those that do not fit the bound are left out.
PATHWISE = ("reparam", "stl", "dreg")
BITS = ("disarm", "leave_one_out", "relax")
CLASSES = ("leave_one_out", "relax")
DEFAULT = "default"
# A candidate takes over if its error is smaller by this many standard errors.
CERTAIN = 3.0


class State(NamedTuple):
    """The state of `auto`. The dicts have an element for each candidate.

    Attributes:
      calls: the number of calls so far.
      in_use: the index of the candidate in use.
      steps: the number of calls in which each candidate was in use.
      error: the last measured mean squared error x evaluations; 0 before the first measurement.
      states: the candidates' own states.
    """

    calls: Array
    in_use: Array
    steps: dict[str, Array]
    error: dict[str, Array]
    states: dict[str, PyTree]

    def figures(self) -> dict[str, Array]:
        """What is worth recording along training: {"auto/NAME/steps": ..., "auto/NAME/error": ...}."""
        columns = {"steps": self.steps, "error": self.error}
        return {f"auto/{name}/{column}": values[name] for column, values in columns.items() for name in values}


class _Candidate(NamedTuple):
    """An estimator, and the number of samples at which it evaluates f for one datum."""

    estimator: Estimator
    evaluations: int
    biased: bool


def auto(num_samples: int = 1, among: str = DEFAULT, every: int = 200, draws: int = 4) -> Estimator:
    """Uses one of several candidates, and measures all of them after every `every` calls.

    `num_samples` is the budget: each candidate takes the largest number of samples with which it evaluates f at most
    `num_samples` times for one datum, or the smallest number with which it works. For a bound that is not a mean over
    samples, each candidate takes `num_samples` samples.

    A measurement draws the gradient in the parameters of q `draws` times by each candidate. So it costs `draws` x
    candidates / `every` gradients for each call. It has keys of its own, and decides about later calls alone: a choice
    that depended on a call's own draws would bias its gradient. The error is the mean squared error of the batch's mean
    gradient in the parameters of q, times the evaluations. Parameters of q that the data share, such as the weights of
    a flow, do not count. The squared bias of a biased candidate is measured against the first unbiased one.

    The candidate in use stays unless another one's error is smaller by three standard errors, so noise alone chooses
    nothing. A biased candidate must be better than an unbiased one in each measurement.

    In the first `every` calls all candidates take turns, one after the other, so that their own parameters are trained
    and their states are filled before they are measured. Later, the parameters and the state of a candidate change only
    while it is in use.

    Where runs are side by side under vmap, every call computes all candidates and a measurement.

    Args:
      num_samples: the budget of evaluations of f for one datum.
      among: names in the table of estimators, joined by dashes; by default some unbiased ones that fit.
      every: number of calls from one measurement to the next.
      draws: number of gradients of each candidate in a measurement.

    Raises:
      ValueError: if a name is unknown, if no candidate is unbiased, or if a number is too small; from `estimate`, if a
        candidate that is named does not fit.
    """
    named = () if among == DEFAULT else tuple(among.split("-"))
    for name in named:
        if name == "auto" or named.count(name) > 1:
            raise ValueError(f"among={among} cannot have {name} {'in it' if name == 'auto' else 'twice'}")
        BY_NAME.find(name)
    if named and all(BY_NAME[name].biased for name in named):
        raise ValueError(f"among={among} needs an unbiased estimator, against which a bias is measured")
    if every < 1 or draws < 2:
        raise ValueError(f"every must be at least 1 and draws at least 2, got {every=} and {draws=}")

    def init(key, q, context=None):
        names = named or _default_names(q)
        keys = jax.random.split(key, len(names))
        made = {
            name: BY_NAME.make(name, num_samples=BY_NAME[name].min_samples).init(key, q, context)
            for name, key in zip(names, keys, strict=True)
            if named or BY_NAME[name]._accepts(q)
        }
        zero = jnp.zeros((), jnp.int32)
        params = {name: params for name, (params, _) in made.items()}
        states = {name: state for name, (_, state) in made.items()}
        steps = dict.fromkeys(made, zero)
        return params, State(zero, zero, steps, dict.fromkeys(made, jnp.zeros(())), states)

    def estimate(params, state, key, q, f, reduce, log_q_weight, context) -> Estimate:
        candidates = _fitting(named, num_samples, q, reduce, log_q_weight, context)
        names = tuple(candidates)
        key_use, key_measure = jax.random.split(key)
        turn = jnp.minimum(state.calls * len(names) // every, len(names) - 1)
        in_use = jnp.where(state.calls < every, turn, state.in_use)

        def call(name: str, params, states, key, q):
            """The estimate of a candidate, and the states of all."""
            estimator = candidates[name].estimator
            result = estimator.estimate(params[name], states[name], key, q, f, reduce, log_q_weight, context)
            return result._replace(state=states | {name: result.state})

        if len(names) == 1:
            result = call(names[0], params, state.states, key_use, q)
            steps = state.steps | {names[0]: state.steps[names[0]] + 1}
            return result._replace(state=State(state.calls + 1, in_use, steps, state.error, result.state))
        result = jax.lax.switch(
            in_use, [functools.partial(call, name) for name in names], params, state.states, key_use, q
        )

        def measure(params, states, key, q):
            """The candidate to go on with, and the errors."""
            gradient = lambda name: (
                lambda key: jax.grad(lambda q: jnp.sum(call(name, params, states, key, q).value), allow_int=True)(q)
            )
            keys = jax.random.split(key, draws)
            drawn = {name: _by_datum(jax.lax.map(gradient(name), keys), q.batch_shape) for name in names}
            chosen, errors = _choose(drawn, candidates, in_use)
            return chosen, {name: errors[i].astype(state.error[name].dtype) for i, name in enumerate(names)}

        # Neither f's own derivative nor that of q may enter a measurement: most estimators have no second derivative.
        frozen = stop_gradient((params, state.states, key_measure, q))
        measure, consts = jax.closure_convert(measure, *frozen)
        error_before = {name: state.error[name] for name in names}
        chosen, error = jax.lax.cond(
            (state.calls + 1) % every == 0,
            lambda: measure(*frozen, *stop_gradient(consts)),
            lambda: (in_use, error_before),
        )
        steps = {name: state.steps[name] + (in_use == names.index(name)) for name in names}
        counted = State(state.calls + 1, chosen, state.steps | steps, state.error | error, result.state)
        return result._replace(state=counted)

    return Estimator(init, estimate)


def _default_names(q: Any) -> tuple[str, ...]:
    if hasattr(q, "rsample"):
        return PATHWISE
    return BITS if type(q).__name__ == "Bernoulli" else CLASSES


def _fitting(named: tuple[str, ...], budget: int, q, reduce, log_q_weight, context) -> dict[str, _Candidate]:
    """The candidates for an expectation, with the numbers of samples that the budget buys.

    Raises:
      ValueError: if a candidate that was named does not fit.
    """
    candidates = {}
    for name in named or _default_names(q):
        refusal = BY_NAME[name].refusal(q, reduce, log_q_weight)
        if refusal is None:
            candidates[name] = _buy(name, budget, q, reduce, log_q_weight, context)
        elif named:
            raise ValueError(refusal)
    return candidates


def _buy(name: str, budget: int, q, reduce, log_q_weight, context) -> _Candidate:
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
    return _Candidate(BY_NAME.make(name, num_samples=num_samples), evaluations, BY_NAME[name].biased)


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


def _by_datum(gradient: PyTree, batch: tuple[int, ...]) -> Float[Array, "draws N P"]:
    """The gradients in the parameters of q of each of the N data, from leaves `[draws, *batch, ...]`.

    Leaves without the axes of the batch are parameters that the data share, and are left out.

    Raises:
      ValueError: if no leaf has the axes of the batch.
    """
    end = 1 + len(batch)
    leaves = [leaf for leaf in jax.tree.leaves(gradient) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    leaves = [leaf.reshape(len(leaf), int(np.prod(batch)), -1) for leaf in leaves if leaf.shape[1:end] == batch]
    if not leaves:
        raise ValueError("auto needs a q whose parameters differ from datum to datum")
    return jnp.concatenate(leaves, axis=-1)


def _choose(drawn: dict[str, Array], candidates: dict[str, _Candidate], in_use: Array) -> tuple[Array, Array]:
    """The index of the candidate to go on with, and the errors `[candidates]`.

    Args:
      drawn: the gradients of each candidate, `[draws, N, P]`, with the same keys for all candidates.
    """
    biased = np.array([candidate.biased for candidate in candidates.values()])
    cost = np.array([candidate.evaluations for candidate in candidates.values()], np.float32)
    gradients = list(drawn.values())
    _, data, _ = gradients[0].shape
    reference = gradients[int(np.argmin(biased))]
    # The variance of the batch's mean gradient has a term for each datum, because the data's noise is independent.
    variance = jnp.stack([jnp.sum(jnp.var(g, axis=0, ddof=1), axis=-1) for g in gradients]) / data  # [candidates, N]
    # The bias of an unbiased candidate is 0, and is not estimated.
    square, uncertainty = jnp.where(biased, jnp.array([_squared_bias(g - reference) for g in gradients]).T, 0.0)
    noise = variance * cost[:, None]
    error = jnp.mean(noise, axis=1) + square * cost
    base = jnp.where(jnp.asarray(biased)[in_use], jnp.argmin(jnp.where(biased, jnp.inf, error)), in_use)
    differences = noise - noise[base]
    spread = jnp.var(differences, axis=1, ddof=1) / data + uncertainty * jnp.square(cost)
    better = error - error[base] < -CERTAIN * jnp.sqrt(spread)
    best = jnp.argmin(jnp.where(better, error, jnp.inf))
    return jnp.where(jnp.any(better), best, base).astype(jnp.int32), error


def _squared_bias(difference: Float[Array, "draws N P"]) -> tuple[Array, Array]:
    """An unbiased estimate of the squared length of the mean, and the variance of this estimate."""
    draws, data, _ = difference.shape
    mean = jnp.mean(difference, axis=(0, 1))
    noise = jnp.mean(jnp.var(difference, axis=0, ddof=1), axis=0) / (draws * data)  # of the mean, [P]
    return jnp.sum(jnp.square(mean) - noise), jnp.sum(2 * jnp.square(noise) + 4 * jnp.square(mean) * noise)
