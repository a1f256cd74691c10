"""The type of every problem, and the shortest way to make one of your own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vae.devices.cpu import on_cpu
from vae.estimators import log_mean_exp, mean

PyTree = Any


class Problem(NamedTuple):
    """An expectation that depends on parameters, at fixed parameters and data.

    Attributes:
      name: name of the problem in tables and figures.
      params: a dict of groups of parameters. Each group is compared separately; typical groups are the parameters of q
        and the parameters of the integrand.
      bounds: a dict from the names of objectives to functions `bound(params, data, expect) -> Estimate` with value
        `[*batch]`. The first objective is the default. `expect` is an estimator, as in `vae.objectives`.
      data: the data of the bound. Problems that differ only in params and data share their compiled programs.
      oracle: `oracle(objective, num_samples)` returns the exact gradient of the batch's mean bound, or None.
      context: input of an input-dependent baseline, `[*batch, ...]`.
      point: name and value of the quantity that varies in a sweep: {} or {name: number}.
      exact_by: method of the oracle in words, for the tables.
      expected: `expected(params, data)`, the exact value, where it is known.
      num_samples: default number of samples K.
      trained: the estimator of the run, if the problem is a trained run.
      identity: text that changes whenever the problem's numbers may change, apart from changes of this project's code.
        None if there is no such text; measurements of the problem are then not stored.
    """

    name: str
    params: dict[str, PyTree]
    bounds: dict[str, Callable]
    data: PyTree = None
    oracle: Callable[[str, int], PyTree | None] = lambda objective, num_samples: None
    context: PyTree = None
    point: dict[str, float] = {}
    exact_by: str = "closed form"
    expected: Callable | None = None
    num_samples: int = 1
    trained: "TrainedEstimator | None" = None
    identity: str | None = None


class Start(NamedTuple):
    """An estimator's params, which it learns, and state, which it counts, before it is measured."""

    learned: PyTree
    counted: PyTree


class TrainedEstimator(NamedTuple):
    """The estimator of a trained run.

    Attributes:
      name: name and options, as the command line spells them.
      start: the estimator's params and state in the checkpoint; None if the objective is not the run's own.
    """

    name: str
    start: Start | None


def from_integrand(
    name: str, params: dict[str, PyTree], posterior: Callable, f: Callable, log_q_weight: float = 0.0
) -> Problem:
    """The expectation of f(params, z) - log_q_weight * log q(z) under q = posterior(params).

    The objective `elbo` is the mean over K samples, and `iwae` is E[log (1/K) sum_k exp(...)].

    Args:
      name: name of the problem in tables and figures.
      params: a dict of groups of parameters.
      posterior: a function from params to a distribution of `vae.distributions`.
      f: `f(params, z)` returns `[K, *batch]` for samples z `[K, *batch, D]` and any K.
      log_q_weight: 1 if f is log p(x, z), so that the expectation is an ELBO; 0 if f is a plain cost or reward.
    """

    def bound(reduce):
        def estimate(params, data, expect):
            at_samples = functools.partial(f, params)
            at_samples.__name__ = getattr(f, "__name__", "f")  # error messages show this name
            return expect(posterior(params), at_samples, reduce, log_q_weight)

        return estimate

    return Problem(name, params, {"elbo": bound(mean), "iwae": bound(log_mean_exp)})


def elbo_oracle(expected: Callable, params: PyTree, *data: PyTree) -> Callable[[str, int], PyTree | None]:
    """The oracle of a problem whose ELBO is `expected(params, *data)`. It returns None for an objective that may differ
    from the ELBO."""

    def oracle(objective: str, num_samples: int) -> PyTree | None:
        is_elbo = objective in _ELBOS or (num_samples == 1 and objective in _ELBOS_OF_ONE_SAMPLE)
        return exact_gradient(expected, params, *data) if is_elbo else None

    return oracle


_ELBOS = ("elbo", "elbo_analytic")
_ELBOS_OF_ONE_SAMPLE = ("iwae", "renyi", "thermodynamic")


def exact_gradient(expected: Callable, params: PyTree, *data: PyTree) -> PyTree:
    """The gradient of `expected(params, *data)` in the parameters, in float64."""
    with on_cpu(), jax.enable_x64(True):
        gradient = _gradient(expected)(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), *data)
        return jax.tree.map(np.asarray, gradient)


@functools.cache  # so that the points of a sweep share one compiled program
def _gradient(expected: Callable) -> Callable:
    return jax.jit(jax.grad(expected))
