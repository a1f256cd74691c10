"""Multilevel Monte Carlo (Shi & Cornish 2021, PMLR 130:3925): a bound of many samples at the cost of a few.

Let L_K be the bound of K samples. With 2^n samples, Delta_n is L of all samples minus the mean of L of the odd ones and
L of the even ones. The estimate is L_1 + Delta_n / P(n), with a random level n >= 1. The mean of Delta_n is
E L_{2^n} - E L_{2^(n-1)}, so the mean of the estimate is E L_K, where K = num_samples belongs to the largest level.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vae.estimators.contract import Estimator, Reduction
from vae.estimators.parts.random_size import Bound, random_size, sizes


def mlmc(num_samples: int = 2, inner: str = "reparam") -> Estimator:
    """The pathwise gradient of the bound of `num_samples` samples, a power of two, from a random number of them.

    P(n) is proportional to 2^(-1.5 n). The mean number of samples is then below 4.5, and the variance of the value is
    finite, for every `num_samples`. `inner` is the gradient on each level, reparam or dreg.
    """

    def choose(key, reduce):
        probabilities = level_probabilities(num_samples)
        level = jax.random.choice(key, len(probabilities), p=jnp.asarray(probabilities))
        return level, [level_bound(reduce, float(probability)) for probability in probabilities]

    return random_size("mlmc", num_samples, inner, choose)


def level_probabilities(num_samples: int) -> np.ndarray:
    """P(n) for n = 1, 2, ..., where 2^n is at most `num_samples`."""
    weights = np.asarray(sizes(num_samples), np.float64) ** -1.5
    return weights / weights.sum()


def level_bound(reduce: Reduction, probability: float) -> Bound:
    """The estimate on a level with this probability. L_1 is averaged over all samples."""

    def bound(values):
        single = jnp.mean(jax.vmap(lambda value: reduce(value[None]))(values), axis=0)
        delta = reduce(values) - 0.5 * (reduce(values[::2]) + reduce(values[1::2]))
        return single + delta / probability

    return bound
