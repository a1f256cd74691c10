"""Pathwise estimators that draw at random how many samples they evaluate: `mlmc` and `sumo`."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vae.estimators.contract import Estimator, Reduction
from vae.estimators.dreg import dreg
from vae.estimators.reparam import reparam
from vae.estimators.tools import stateless

Bound = Callable[[Float[Array, "K *batch"]], Float[Array, "*batch"]]
_PATHWISE = {"reparam": reparam, "dreg": dreg}


def random_size(
    name: str,
    num_samples: int,
    inner: str,
    choose: Callable[[PRNGKeyArray, Reduction], tuple[Int[Array, ""], list[Bound]]],
) -> Estimator:
    """The estimator that evaluates 2, 4, 8, ... or `num_samples` samples, the same number for all data of a batch.

    `lax.switch` runs only the number of samples that is drawn. Under `vmap` over keys, it runs all numbers.

    Args:
      name: the name of the estimator, for error messages.
      num_samples: a power of two.
      inner: the pathwise gradient for a fixed number of samples, reparam or dreg.
      choose: a function of a key and a reduction. It draws the index of a number of samples. It also returns, for every
        number of samples, the function that makes the estimate of the samples' values. An estimate is a combination of
        values of the reduction whose weights sum to 1.

    Raises:
      ValueError: if `num_samples` is not a power of two, or if there is no such `inner`.
    """
    if num_samples & (num_samples - 1):
        raise ValueError(f"{name} needs a power of two as num_samples, got {num_samples}")
    if inner not in _PATHWISE:
        raise ValueError(f"{name} has no inner estimator {inner!r}; choose {' or '.join(_PATHWISE)}")
    estimators = [_PATHWISE[inner](size) for size in sizes(num_samples)]

    def estimate(key, q, f, reduce, log_q_weight):
        key_size, key_z = jax.random.split(key)
        index, bounds = choose(key_size, reduce)

        def branch(estimator: Estimator, bound: Bound) -> Callable[[], Array]:
            combined = Reduction(bound, name=reduce.name, shift_equivariant=reduce.shift_equivariant)
            return lambda: estimator.estimate({}, {}, key_z, q, f, combined, log_q_weight).value

        branches = [branch(*pair) for pair in zip(estimators, bounds, strict=True)]
        return jax.lax.switch(index, branches)

    return stateless(estimate)


def sizes(num_samples: int) -> list[int]:
    """The numbers 2, 4, 8, ..., num_samples."""
    return [2**n for n in range(1, num_samples.bit_length())]
