"""The contract between gradient estimators and the code that uses them.

An estimator differentiates E[reduce(f(z_k) - c log q(z_k))], z_k ~ q, in q and in everything that f closes over. It is
a pair of pure functions. `init` makes the estimator's params (what it learns) and its state (what it counts).
`estimate` returns the Monte Carlo value with the gradient estimate attached. One `jax.grad` over the parameters of the
model and of the estimator then gives every gradient at once.

Only first-order derivatives pass through an estimate. A separate gradient for each sample is a `vmap` over keys.
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
    """What an estimator may ask of every q. Families that are reparameterizable also have `rsample`."""

    @property
    def batch_shape(self) -> tuple[int, ...]: ...

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Samples: ...

    def log_prob(self, z: Samples) -> Float[Array, "K *batch"]: ...


@runtime_checkable
class Integrand(Protocol):
    """f: a function of the samples alone, for any number K of samples. It may close over parameters."""

    def __call__(self, z: Samples) -> Float[Array, "K *batch"]: ...


@dataclasses.dataclass(frozen=True)
class Reduction:
    """How the values of K samples become one bound. `reduce(values)` maps `[K, *batch]` to `[*batch]`.

    Attributes:
      function: the map itself.
      name: what tables and error messages call the reduction.
      additive: the reduction is the mean over samples, so that its gradient splits into one term for each sample.
      shift_equivariant: adding a constant to every value adds the same constant to the result.
      importance_weighted: the reduction is the log of the mean of the importance weights, whose logs are the values.
    """

    function: Callable[[Array], Array]
    name: str
    additive: bool = False
    shift_equivariant: bool = False
    importance_weighted: bool = False

    def __call__(self, values: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return self.function(values)


def _log_mean_exp(values: Array) -> Array:
    return jax.nn.logsumexp(values, axis=0) - jnp.log(values.shape[0])


# The ELBO.
mean = Reduction(lambda values: jnp.mean(values, axis=0), name="mean", additive=True, shift_equivariant=True)
# The importance-weighted bound, log (1/K) sum_k exp(values_k) (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519).
log_mean_exp = Reduction(_log_mean_exp, name="log_mean_exp", shift_equivariant=True, importance_weighted=True)


class Estimate(NamedTuple):
    """What an estimator returns.

    Attributes:
      value: `[*batch]`, to be maximised. Forward: the Monte Carlo value, never a surrogate. Derivative, in q and in
        everything that f closes over: the gradient estimate.
      cv_loss: `[]`, to be minimised. Its derivative reaches the estimator's own params and nothing else.
      state: moving averages and counters, for the next call.
    """

    value: Float[Array, "*batch"]
    cv_loss: Float[Array, ""]
    state: PyTree


class Init(Protocol):
    """`init(key, q, context)` returns (params, state)."""

    def __call__(self, key: PRNGKeyArray, q: Distribution, context: PyTree = None) -> tuple[PyTree, PyTree]: ...


class Call(Protocol):
    """`estimate(params, state, key, q, f, reduce, log_q_weight, context)`.

    `log_q_weight` is the constant c: 1 for the log-weight log p(x, z) - log q(z), 0 for a plain cost. `context` is what
    an input-dependent baseline may look at, usually x.
    """

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        key: PRNGKeyArray,
        q: Distribution,
        f: Integrand,
        reduce: Reduction = mean,
        log_q_weight: float = 0.0,
        context: PyTree = None,
    ) -> Estimate: ...


class Estimator(NamedTuple):
    """A gradient estimator."""

    init: Init
    estimate: Call


@runtime_checkable
class Expect(Protocol):
    """An estimator with its params, state, key and context filled in: what an objective hands its expectation to."""

    def __call__(
        self, q: Distribution, f: Integrand, reduce: Reduction = mean, log_q_weight: float = 0.0
    ) -> Estimate: ...


def bind(estimator: Estimator, params: PyTree, state: PyTree, key: PRNGKeyArray, context: PyTree = None) -> Expect:
    """Fills in everything but the expectation: `bind(...)(q, f, reduce, log_q_weight)` is the estimate."""

    def expect(q: Any, f: Any, reduce: Reduction = mean, log_q_weight: float = 0.0) -> Estimate:
        return estimator.estimate(params, state, key, q, f, reduce, log_q_weight, context)

    return expect
