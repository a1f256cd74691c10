"""An estimator that chooses among others: from time to time it measures their errors and continues with the best."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, PyTree

from vae.estimators.contract import Estimate, Estimator
from vae.estimators.entry import BY_NAME
from vae.estimators.parts.candidates import default_names, fitting
from vae.estimators.parts.choice import by_datum, choose

# The value of the option `among` that stands for candidates that suit the latents.
DEFAULT = "default"


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

    The candidate in use stays unless another one's error is smaller by three standard errors, so noise alone rarely
    changes the choice. A biased candidate must be better than an unbiased one in each measurement.

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
        candidate that is named does not fit, or if the batch has one datum.
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
        names = named or default_names(q)
        keys = jax.random.split(key, len(names))
        made = {
            name: BY_NAME.make(name, num_samples=BY_NAME[name].min_samples).init(key, q, context)
            for name, key in zip(names, keys, strict=True)
            if named or BY_NAME[name].refusal_at_init(q) is None
        }
        zero = jnp.zeros((), jnp.int32)
        params = {name: params for name, (params, _) in made.items()}
        states = {name: state for name, (_, state) in made.items()}
        steps = dict.fromkeys(made, zero)
        return params, State(zero, zero, steps, dict.fromkeys(made, jnp.zeros(())), states)

    def estimate(params, state, key, q, f, reduce, log_q_weight, context) -> Estimate:
        candidates = fitting(named, num_samples, q, f, reduce, log_q_weight, context)
        names = tuple(candidates)
        key_use, key_measure = jax.random.split(key)
        turn = jnp.minimum(state.calls * len(names) // every, len(names) - 1)
        in_use = jnp.where(state.calls < every, turn, state.in_use)

        def call(name: str, params, states, key, q):
            """The estimate of a candidate, and the states of all."""
            estimator = candidates[name].estimator
            result = estimator.estimate(params[name], states[name], key, q, f, reduce, log_q_weight, context)
            return result._replace(state=states | {name: result.state})

        result = jax.lax.switch(
            in_use, [functools.partial(call, name) for name in names], params, state.states, key_use, q
        )

        def measure(params, states, key, q):
            """The candidate to go on with, and the errors."""
            gradient = lambda name: (
                lambda key: jax.grad(lambda q: jnp.sum(call(name, params, states, key, q).value), allow_int=True)(q)
            )
            keys = jax.random.split(key, draws)
            drawn = {name: by_datum(jax.lax.map(gradient(name), keys), q.batch_shape) for name in names}
            chosen, errors = choose(drawn, candidates, in_use)
            return chosen, {name: errors[i].astype(state.error[name].dtype) for i, name in enumerate(names)}

        unchanged = (in_use, {name: state.error[name] for name in names})
        chosen, error = unchanged
        if len(names) > 1:
            is_due = (state.calls + 1) % every == 0
            measured = _without_derivative(measure, params, state.states, key_measure, q)
            chosen, error = jax.lax.cond(is_due, measured, lambda: unchanged)
        steps = {name: state.steps[name] + (in_use == names.index(name)) for name in names}
        counted = State(state.calls + 1, chosen, state.steps | steps, state.error | error, result.state)
        return result._replace(state=counted)

    return Estimator(init, estimate)


def _without_derivative(measure: Callable, *arguments: PyTree) -> Callable[[], Any]:
    """`measure(*arguments)` without its derivatives in the arguments and in what it closes over, such as f's own
    parameters: most estimators have no second derivative."""
    frozen = stop_gradient(arguments)
    measure, consts = jax.closure_convert(measure, *frozen)
    return lambda: measure(*frozen, *stop_gradient(consts))
