"""The shape k of a generalized Pareto distribution, fitted to the largest importance weights.

k tells how heavy the tail of the weights is: they have fewer than 1 / k finite moments. Averages of weights are
reliable up to about k = 0.7 (Vehtari, Simpson, Gelman, Yao & Gabry 2024, arXiv:1507.02646).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# k is not estimated from fewer weights above the threshold.
LEAST_TAIL = 5
# The weight of the prior on k, in observations, and its mean. It steadies k where the tail is short.
PRIOR_OBSERVATIONS, PRIOR_K = 10, 0.5
# Exceedances are at least this share of the largest weight, so that none underflows.
LEAST_EXCEEDANCE = 1e-30


def tail_length(num_samples: int) -> int:
    """M, the number of the largest of K weights that are the tail: min(K / 5, 3 sqrt(K)), rounded up."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(largest: Float[Array, "M_and_1"]) -> Float[Array, ""]:
    """The shape k of the tail of M weights (Zhang & Stephens 2009, with the prior of arXiv:1507.02646).

    NaN where fewer than `LEAST_TAIL` weights are above the threshold: because M is smaller, or because weights are
    equal, as those of discrete latents are.

    Args:
      largest: the M + 1 largest log-weights in descending order. The last is the threshold.
    """
    log_weights, threshold = largest[:-1], largest[-1]
    in_tail = log_weights > threshold
    count = jnp.sum(in_tail)
    excess = jnp.exp(log_weights - largest[0]) * -jnp.expm1(threshold - log_weights)
    x = jnp.where(in_tail, jnp.maximum(excess, LEAST_EXCEEDANCE), 0.0)  # [M], descending, in units of the largest

    def profile_k(theta):
        """The most likely k at a given theta = -k / scale, negated as in Zhang & Stephens."""
        return jnp.sum(jnp.log1p(-theta * x)) / count

    # A posterior mean of theta over a grid of likely values, weighted by the profile likelihood.
    points = 30 + math.isqrt(len(log_weights))
    quartile = x[count - jnp.floor(count / 4 + 0.5).astype(int)]
    spread = 1 - jnp.sqrt(points / (jnp.arange(1, points + 1) - 0.5))
    thetas = 1 / x[0] + spread / (3 * quartile)
    ks = jax.vmap(profile_k)(thetas)
    log_likelihoods = count * (jnp.log(-thetas / ks) - ks - 1)
    k = profile_k(jnp.sum(jax.nn.softmax(log_likelihoods) * thetas))
    k = (count * k + PRIOR_OBSERVATIONS * PRIOR_K) / (count + PRIOR_OBSERVATIONS)
    return jnp.where(count < LEAST_TAIL, jnp.nan, k)
