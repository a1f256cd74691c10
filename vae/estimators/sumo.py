"""SUMO (Luo et al. 2020, arXiv:2004.00353): a Russian roulette over the number of samples.

Let L_k be the importance-weighted bound of the first k samples. The estimate is
L_1 + sum_{k=1}^N (L_{k+1} - L_k) / P(N >= k), with a random N < K = num_samples. Its mean is E L_K.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vae import distributions
from vae.estimators.contract import Estimator
from vae.estimators.parts.random_size import Bound, random_size, sizes


def sumo(num_samples: int = 2, inner: str = "reparam") -> Estimator:
    """The pathwise gradient of the bound of `num_samples` samples, a power of two, from a random number of them.

    P(N >= k) is 1 / k, as in the paper for k < 80. Arrays have static shapes, so N + 1, the number of samples, is
    rounded up to a power of two. Its mean is then 1 + log2(num_samples). `inner` is the gradient for each number of
    samples, reparam or dreg.
    """

    def choose(key, reduce):
        del reduce  # the table admits log_mean_exp alone
        uniform = distributions.uniform(key, (), jnp.float32)
        steps = jnp.minimum(jnp.floor(1 / uniform), num_samples - 1).astype(jnp.int32)  # N
        bounds = [roulette_bound(steps)] * len(sizes(num_samples))
        return jnp.searchsorted(jnp.asarray(sizes(num_samples), steps.dtype), steps + 1), bounds

    return random_size("sumo", num_samples, inner, choose)


def roulette_bound(steps: int | Int[Array, ""]) -> Bound:
    """The estimate for N = `steps`, of the log-weights of at least N + 1 samples."""

    def bound(log_weights):
        column = lambda numbers: numbers.reshape(-1, *[1] * (log_weights.ndim - 1))
        k = np.arange(1, len(log_weights) + 1, dtype=log_weights.dtype)
        bounds = jax.lax.cumlogsumexp(log_weights) - column(np.log(k))  # L_1, ..., L_K, [K, *batch]
        inverse_probabilities = column(jnp.where(k <= jnp.asarray(steps, k.dtype), k, 0))[:-1]  # 1 / P(N >= k), or 0
        return bounds[0] + jnp.sum(inverse_probabilities * jnp.diff(bounds, axis=0), axis=0)

    return bound
