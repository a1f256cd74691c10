"""A task for gradient estimators: a problem and one of its objectives."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from experiments.common import grammar
from experiments.common.budget import Cost, Refused
from experiments.common.problems import Problem, Start
from vae import diagnostics
from vae.diagnostics import expectations
from vae.diagnostics.expectations import Expectation
from vae.estimators import BY_NAME, Estimator, bind

PyTree = Any


@dataclass(frozen=True)
class Task:
    """The gradient of `problem.bounds[objective]` at the problem's parameters and data.

    Estimators are given by name and options, as the command line spells them. What was computed for an estimator and a
    K is computed once: the task holds its start and its admission, and `gradient` is traced once.
    """

    problem: Problem
    objective: str

    @property
    def bound(self) -> Callable:
        """`bound(params, data, expect) -> Estimate`."""
        return self.problem.bounds[self.objective]

    @functools.cached_property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.problem.params))

    @functools.cached_property
    def expectations(self) -> list[Expectation]:
        """The expectations that the objective estimates: each q, the reduction over its samples, and log_q_weight."""
        return expectations.record(lambda expect: self.bound(self.problem.params, self.problem.data, expect))

    @property
    def posterior(self) -> Any:
        """The q of the first expectation."""
        return self.expectations[0].q

    @property
    def is_multi_sample(self) -> bool:
        """Whether every number of samples gives a different bound."""
        return any(not expectation.reduce.additive for expectation in self.expectations)

    @functools.cached_property
    def host_calls(self) -> diagnostics.HostCalls:
        """The calls of functions on the host, such as a simulator in NumPy, from inside the integrands f."""
        return expectations.host_calls(self.expectations)

    def refusal(self, name: str) -> str | None:
        """Why the estimator cannot differentiate the objective, and which estimators can; None if it can."""
        choice = grammar.choose(name, BY_NAME)
        black_box = not self.host_calls.are_differentiable
        refusals = (grammar.refusal(choice, expectation, black_box) for expectation in self.expectations)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def gradient(self, name: str, num_samples: int) -> Callable:
        """`gradient(key, *arguments)`, where `arguments(start)` returns the arguments; see
        `vae.diagnostics.make_gradient`. Every program that contains the gradient shares one trace of the bound."""
        return _make_gradient(self.bound, make_estimator(name, num_samples))

    def start(self, name: str, num_samples: int) -> Start:
        """The estimator's params and state from training, if the problem is a run trained with it; else new ones."""
        trained = self.problem.trained
        if trained and trained.name == name and trained.start is not None:
            return trained.start
        if (name, num_samples) not in self._starts:
            init = make_estimator(name, num_samples).init
            arguments = (jax.random.key(0), self.posterior, self.problem.context)
            is_empty = not jax.tree.leaves(jax.eval_shape(init, *arguments))
            self._starts[name, num_samples] = Start(*(init if is_empty else jax.jit(init))(*arguments))
        return self._starts[name, num_samples]

    @functools.cached_property
    def _starts(self) -> dict[tuple[str, int], Start]:
        return {}

    def arguments(self, start: Start) -> tuple[PyTree, ...]:
        """The arguments of the gradient of `vae.diagnostics.make_gradient`, after the key."""
        return (self.problem.params, self.problem.data, start.learned, start.counted, self.problem.context)

    def cost(self, kind: Cost, name: str, num_samples: int) -> float:
        """The cost of one gradient: evaluations of f for one datum, or FLOP for the whole batch.

        Raises:
          Refused: if the estimator does not work with this number of samples or these latents.
        """
        estimator = self.admit(name, num_samples)
        arguments = self.arguments(self.start(name, num_samples))
        if kind == "flops":
            return diagnostics.flops(self.gradient(name, num_samples), jax.random.key(0), *arguments)
        return diagnostics.evaluations(self.bound, estimator, jax.random.key(0), *arguments)

    def admit(self, name: str, num_samples: int) -> Estimator:
        """The estimator, after a trial on log q in place of the problem's own integrand.

        In the trial only the estimator itself can raise an error, and that error becomes a refusal. An error in the
        user's integrand is raised elsewhere and keeps its traceback.

        Raises:
          Refused: if the estimator does not work with this number of samples or these latents.
        """
        key = jax.random.key(0)
        expectations = self.expectations  # here, because within the trial they would be traced

        def estimates():
            learned, counted = estimator.init(key, self.posterior, self.problem.context)
            expect = bind(estimator, learned, counted, key, self.problem.context)
            return [expect(q, q.log_prob, reduce, log_q_weight) for q, reduce, log_q_weight, _ in expectations]

        try:
            estimator = make_estimator(name, num_samples)
            jax.eval_shape(estimates)
        except (ValueError, NotImplementedError) as error:
            raise Refused(str(error)) from None
        return estimator


@functools.cache  # compiled programs are cached by the estimator object, so equal names must give the same object
def make_estimator(name: str, num_samples: int) -> Estimator:
    """The estimator with these options and this number of samples."""
    return grammar.build(grammar.choose(name, BY_NAME), BY_NAME, num_samples=num_samples)


@functools.cache  # so that every program with this gradient uses one trace of it
def _make_gradient(bound: Callable, estimator: Estimator) -> Callable:
    return jax.jit(diagnostics.make_gradient(bound, estimator))
