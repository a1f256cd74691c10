"""The contract between gradient estimators and the code that uses them.

An estimator differentiates E[reduce(f(z_k) - c log q(z_k))], z_k ~ q, with respect to the parameters of q and to every
array that f closes over. An estimator is a pair of pure functions. `init` makes the estimator's params (what it learns)
and its state (what it counts). `estimate` returns a Monte Carlo value whose derivative is the gradient estimate. One
`jax.grad` over the parameters of the model and of the estimator then gives all gradients at once.

Second derivatives are right for `reparam`, `reparam_antithetic`, `reparam_rqmc`, `gumbel_softmax`, `eat` and
`exact`. All other estimators refuse them, and so do families whose samples are differentiated implicitly, such as
Gamma. For several independent gradients, use `vmap` over keys.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

# `[K, *batch, D]`, or a tuple of such arrays where q has several stochastic layers.
Samples = Array | tuple[Array, ...]


@runtime_checkable
class Distribution(Protocol):
    """The methods that every q has. Reparameterizable families also have `rsample(key, num_samples)`."""

    @property
    def batch_shape(self) -> tuple[int, ...]: ...

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Samples: ...

    def log_prob(self, z: Samples) -> Float[Array, "K *batch"]: ...


@runtime_checkable
class Integrand(Protocol):
    """The type of f: a function of the samples alone, for any number K of samples. f may close over parameters."""

    def __call__(self, z: Samples) -> Float[Array, "K *batch"]: ...


@dataclasses.dataclass(frozen=True)
class LogJoint:
    """The integrand log p(x|z) + w log p(z). Most estimators only call it; `gdreg` also reads the prior p(z).

    Attributes:
      log_likelihood: the function z -> log p(x|z) `[K, *batch]`.
      prior: the distribution p(z).
      prior_weight: the weight w of log p(z): 1, or less in a warm-up.
    """

    log_likelihood: Integrand
    prior: Any
    prior_weight: float | Array = 1.0

    def __call__(self, z: Samples) -> Float[Array, "K *batch"]:
        log_likelihood, log_prior = self.log_likelihood(z), self.prior.log_prob(z)
        check_equal_shapes({"log p(x|z)": log_likelihood, "log p(z)": log_prior})
        return log_likelihood + self.prior_weight * log_prior


def check_equal_shapes(terms: dict[str, Array]) -> None:
    """Refuses terms of a bound that differ in shape: adding a mean over the batch would broadcast it to every datum.

    Raises:
      ValueError: if they do.
    """
    shapes = {name: list(jnp.shape(term)) for name, term in terms.items()}
    if len({*map(tuple, shapes.values())}) > 1:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"the terms of a bound must have one shape, one number for each sample and datum, got {given}")


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A function that turns the values of K samples into one bound: `reduce(values)` maps `[K, *batch]` to `[*batch]`.

    Attributes:
      function: the function that is called.
      name: the name of the reduction in tables and error messages.
      additive: whether the reduction is the mean over samples. Its gradient is then a sum with one term per sample.
      shift_equivariant: whether adding a constant to every value adds the same constant to the result.
      importance_weighted: whether the values are log importance weights and the result is the log of the mean weight.
    """

    function: Callable[[Array], Array]
    name: str
    additive: bool = False
    shift_equivariant: bool = False
    importance_weighted: bool = False

    def __call__(self, values: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        bound = self.function(values)
        if jnp.shape(bound) != values.shape[1:]:
            shapes = f"{list(values.shape)} to {list(values.shape[1:])}, got {list(jnp.shape(bound))}"
            raise ValueError(f"the reduction {self.name} must turn [K, *batch] into [*batch]: {shapes}")
        return bound


def _log_mean_exp(values: Array) -> Array:
    return jax.nn.logsumexp(values, axis=0) - jnp.log(values.shape[0])


# The reduction of the ELBO.
mean = Reduction(lambda values: jnp.mean(values, axis=0), name="mean", additive=True, shift_equivariant=True)
# The reduction of the importance-weighted bound: log (1/K) sum_k exp(values_k) (Burda, Grosse & Salakhutdinov 2015,
# arXiv:1509.00519).
log_mean_exp = Reduction(_log_mean_exp, name="log_mean_exp", shift_equivariant=True, importance_weighted=True)


class Estimate(NamedTuple):
    """The result of an estimator.

    Attributes:
      value: the Monte Carlo value `[*batch]`, which is to be maximised; never a surrogate. Its derivative in the
        parameters of q and in everything that f closes over is the gradient estimate.
      cv_loss: a loss `[]`, which is to be minimised. It has a derivative in the estimator's own params and in nothing
        else.
      state: the moving averages and counters for the next call.
    """

    value: Float[Array, "*batch"]
    cv_loss: Float[Array, ""]
    state: PyTree


class Init(Protocol):
    """`init(key, q, context)` returns (params, state)."""

    def __call__(self, key: PRNGKeyArray, q: Distribution, context: PyTree = None) -> tuple[PyTree, PyTree]: ...


class Call(Protocol):
    """`estimate(params, state, key, q, f, reduce, log_q_weight, context)` returns an `Estimate`.

    `log_q_weight` is the constant c: 1 for the log-weight log p(x, z) - log q(z), and 0 for a plain cost f(z).
    `context` is the input of an input-dependent baseline, usually x.
    """

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        key: PRNGKeyArray,
        q: Distribution,
        f: Integrand,
        reduce: Reduction = mean,
        log_q_weight: float | Array = 0.0,
        context: PyTree = None,
    ) -> Estimate: ...


class Estimator(NamedTuple):
    """A gradient estimator: a pair of pure functions."""

    init: Init
    estimate: Call


@runtime_checkable
class Expect(Protocol):
    """An estimator with its params, state, key and context filled in. Objectives call it with their expectation."""

    def __call__(
        self, q: Distribution, f: Integrand, reduce: Reduction = mean, log_q_weight: float | Array = 0.0
    ) -> Estimate: ...


def bind(
    estimator: Estimator, params: PyTree, state: PyTree, key: PRNGKeyArray | None, context: PyTree = None
) -> Expect:
    """Fills in params, state, key and context of an estimator; returns a function of (q, f, reduce, log_q_weight).

    Each call of this function has the same key and the same state, so an objective should call it once.
    """

    def expect(q: Any, f: Any, reduce: Reduction = mean, log_q_weight: float | Array = 0.0) -> Estimate:
        return estimator.estimate(params, state, key, q, f, reduce, log_q_weight, context)

    return expect
