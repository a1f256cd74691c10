"""Bounds on log p(x). Each writes itself as an expectation and hands it to `expect`, an estimator with its parameters,
state and key bound: an objective names no estimator, an estimator no objective.

    objective(apply, params, x, expect) -> Estimate with value [B], in nats, to be maximised
    expect(q, f, reduce) -> Estimate

`apply` is a model's `apply`, with the methods of `vae.models.VAE`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae.estimators.base import Estimate, log_mean_exp, mean


def elbo(apply: Callable, params, x: Array, expect: Callable) -> Estimate:
    """E_q[log p(x, z) - log q(z|x)], all of it by Monte Carlo (Kingma & Welling 2013, arXiv:1312.6114, eq. 2)."""
    return _multi_sample(mean)(apply, params, x, expect)


def elbo_analytic(beta: float | Array = 1.0, free_bits: float | Array = 0.0) -> Callable:
    """The objective E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), with the KL in closed form (arXiv:1312.6114, eq. 7).

    Args:
      beta: weight of the KL; 1 is the ELBO (Higgins et al. 2017, beta-VAE). An array may be traced: warm-up is a beta
        that depends on the step.
      free_bits: nats of KL that each latent dimension has for free, on the average over the batch (Kingma et al. 2016,
        arXiv:1606.04934, eq. 15); 0 for none. Needs a factorized posterior.
    """

    def objective(apply: Callable, params, x: Array, expect: Callable) -> Estimate:
        q = apply(params, x, method="encode")
        reconstruction = expect(q, lambda z, q: apply(params, x, z, method="log_likelihood"), mean)
        if isinstance(free_bits, int | float) and free_bits == 0:
            rate = apply(params, q, method="kl_to_prior")  # [B]
        else:
            rates = apply(params, q, per_dimension=True, method="kl_to_prior")  # [B, D]
            paid = jnp.mean(rates, axis=0) > free_bits  # [D]
            rate = jnp.sum(jnp.where(paid, rates, free_bits), axis=-1)
        return reconstruction._replace(value=reconstruction.value - beta * rate)

    return objective


def iwae(apply: Callable, params, x: Array, expect: Callable) -> Estimate:
    """E[log (1/K) sum_k p(x, z_k) / q(z_k|x)] (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519). K is the
    estimator's num_samples."""
    return _multi_sample(log_mean_exp)(apply, params, x, expect)


def renyi(alpha: float) -> Callable:
    """The VR-IWAE bound E[log (1/K) sum_k w_k^(1-alpha)] / (1 - alpha) (Daudel et al. 2023, arXiv:2210.06226), the
    Monte Carlo form of Renyi's (Li & Turner 2016, arXiv:1602.02311). 0 is the importance-weighted bound; towards 1 it
    becomes the ELBO.

    Raises:
      ValueError: unless 0 <= alpha < 1.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}; at 1 take the objective elbo")

    def reduce(log_weights: Array) -> Array:
        return log_mean_exp((1 - alpha) * log_weights) / (1 - alpha)

    return _multi_sample(log_mean_exp if alpha == 0 else reduce)


def thermodynamic(num_partitions: int = 5, first: float = 0.025) -> Callable:
    """The thermodynamic variational objective (Masrani, Le & Wood 2019, arXiv:1907.00031): the left Riemann sum of the
    integral over beta of E_{pi_beta}[log w], pi_beta ~ q^(1-beta) p^beta, by self-normalized weights w^beta.

    Differentiated is the K-sample estimate itself, which like the paper's covariance gradient is off by O(1/K).

    Args:
      num_partitions: number of terms; one is the ELBO.
      first: the smallest positive beta; the others are spaced evenly in its logarithm up to 1.
    """
    if num_partitions < 1 or not 0 < first < 1:
        raise ValueError(f"needs num_partitions >= 1 and 0 < first < 1, got {num_partitions} and {first}")
    betas = np.concatenate([[0.0], np.geomspace(first, 1.0, num_partitions) if num_partitions > 1 else [1.0]])

    def reduce(log_weights: Array) -> Array:
        def expectation(beta):
            return jnp.sum(jax.nn.softmax(beta * log_weights, axis=0) * log_weights, axis=0)

        return sum(float(width) * expectation(float(beta)) for beta, width in zip(betas, np.diff(betas), strict=False))

    return _multi_sample(mean if num_partitions == 1 else reduce)


def _multi_sample(reduce: Callable) -> Callable:
    def objective(apply: Callable, params, x: Array, expect: Callable) -> Estimate:
        q, log_weight = _log_weight(apply, params, x)
        return expect(q, log_weight, reduce)

    return objective


def posterior_terms(apply: Callable, params, x: Array, q, z) -> tuple[Array, Array]:
    """log p(x|z) and log p(z) - log q(z|x), each `[K, B]`: their sum is the log importance weight."""
    log_prior = apply(params, method="prior_distribution").log_prob(z)
    return apply(params, x, z, method="log_likelihood"), log_prior - q.log_prob(z)


def _log_weight(apply: Callable, params, x: Array):
    """The posterior q and f(z, q) = log p(x, z) - log q(z|x), `[K, B]`."""
    q = apply(params, x, method="encode")
    return q, lambda z, q: apply(params, x, z, method="log_joint") - q.log_prob(z)
