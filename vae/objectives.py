"""Bounds on log p(x), and their table.

An objective writes its bound as an expectation and passes the expectation to `expect`, which is an estimator with its
params, state and key filled in. Objectives and estimators do not know each other. `vae/apply.py` says what `apply` is.

    objective(apply, params, x, expect) -> Estimate with value [B], in nats, to be maximised
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from vae.apply import posterior
from vae.estimators.contract import Estimate, Expect, LogJoint, Reduction, check_equal_shapes, log_mean_exp, mean
from vae.estimators.tools import is_zero, with_own_loss
from vae.table import Table


@runtime_checkable
class Objective(Protocol):
    """A bound on log p(x) for each datum of x, which is what the model takes: `[B, H, W, C]`, or a pytree of arrays."""

    def __call__(self, apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate: ...


def elbo(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
    """The ELBO, E_q[log p(x, z) - log q(z|x)], with every term estimated by Monte Carlo (Kingma & Welling 2013,
    arXiv:1312.6114, eq. 2)."""
    return from_log_weights(mean)(apply, params, x, expect)


def weighted_elbo(
    beta: float | np.number | Array = 1.0,
    kl_warmup: float | np.number | Array = 0.0,
    epoch: float | np.number | Array | None = None,
) -> Objective:
    """E_q[log p(x|z) + w (log p(z) - log q(z|x))], as `elbo_analytic`, but with no need of a closed form of the KL."""
    _refuse_negative(beta=beta)
    return from_log_weights(mean, _kl_weight(kl_warmup, epoch, beta))


def elbo_analytic(
    beta: float | np.number | Array = 1.0,
    free_bits: float | np.number | Array = 0.0,
    kl_warmup: float | np.number | Array = 0.0,
    epoch: float | np.number | Array | None = None,
) -> Objective:
    """E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), with the model's closed form kl_to_prior (arXiv:1312.6114, eq. 7).

    Args:
      beta: weight of the KL. The weight 1 gives the ELBO; other weights give the beta-VAE (Higgins et al. 2017).
      free_bits: KL in nats below which a latent dimension is not penalized, where the KL is averaged over the batch
        (Kingma et al. 2016, arXiv:1606.04934, eq. 15); 0 turns free bits off. Needs a factorized posterior.
      kl_warmup: number of epochs over which the weight of the KL grows linearly from 0 to beta (Sonderby et al. 2016,
        arXiv:1602.02282, section 2.3); 0 turns warm-up off.
      epoch: epoch of the current step, which may be a fraction. Only `kl_warmup` uses it, and needs it.

    Every argument may be a traced array. A Python 0 for `free_bits` or `kl_warmup` leaves that term out of the program.

    Raises:
      ValueError: if `kl_warmup` is given without `epoch`, or if a number of the others is below 0.
    """
    _refuse_negative(beta=beta, free_bits=free_bits)
    weight = _kl_weight(kl_warmup, epoch, beta)

    def objective(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
        q = posterior(apply, params, x)
        reconstruction = expect(q, lambda z: apply(params, x, z, method="log_likelihood"), mean)
        if is_zero(free_bits):
            rate = apply(params, q, method="kl_to_prior")  # [B]
        else:
            rates = apply(params, q, per_dimension=True, method="kl_to_prior")  # [B, D]
            rate = jnp.sum(jnp.where(jnp.mean(rates, axis=0) > free_bits, rates, free_bits), axis=-1)
        check_equal_shapes({"log p(x|z)": reconstruction.value, "KL(q(z|x) || p(z))": rate})
        return with_own_loss(q, reconstruction._replace(value=reconstruction.value - weight * rate))

    return objective


def iwae(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
    """The importance-weighted bound, E[log (1/K) sum_k p(x, z_k) / q(z_k|x)], where K is the estimator's num_samples
    (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519)."""
    return from_log_weights(log_mean_exp)(apply, params, x, expect)


def renyi(alpha: float = 0.5) -> Objective:
    """The VR-IWAE bound E[log (1/K) sum_k w_k^(1-alpha)] / (1 - alpha) (Daudel et al. 2023, arXiv:2210.06226). It is
    the Monte Carlo form of the variational Renyi bound (Li & Turner 2016, arXiv:1602.02311).

    At alpha = 0 the VR-IWAE bound is the importance-weighted bound. As alpha approaches 1, the bound approaches the
    ELBO, also in float32.

    Raises:
      ValueError: unless 0 <= alpha < 1.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}; for alpha=1 use the objective elbo")
    if alpha == 0:
        return from_log_weights(log_mean_exp)

    def reduce(log_weights: Array) -> Array:
        largest = jax.lax.stop_gradient(jnp.max(log_weights, axis=0))
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
        exponents = (1 - alpha) * (log_weights - largest)
        # Near alpha = 1 the exponents are tiny, and their sum would be lost beside the 1 of exp.
        excess = jnp.mean(jnp.expm1(exponents), axis=0)
        log_mean = jnp.where(excess > -0.5, jnp.log1p(excess), jnp.log(jnp.mean(jnp.exp(exponents), axis=0)))
        return largest + log_mean / (1 - alpha)

    return from_log_weights(Reduction(reduce, name=f"renyi:alpha={alpha}", shift_equivariant=True))


def thermodynamic(partitions: int = 5, first: float = 0.025) -> Objective:
    """The thermodynamic variational objective (Masrani, Le & Wood 2019, arXiv:1907.00031): the left Riemann sum of the
    integral over beta from 0 to 1 of E_{pi_beta}[log w].

    The density pi_beta is proportional to q^(1-beta) p^beta, and E_{pi_beta} is estimated with self-normalized weights
    w^beta. The gradient is the derivative of this K-sample estimate; its bias is O(1/K), like that of the covariance
    gradient in the paper.

    Args:
      partitions: number of terms; one term is the ELBO.
      first: the smallest positive beta. The other betas are spaced evenly in log beta up to 1.

    Raises:
      ValueError: unless partitions >= 1 and 0 < first < 1.
    """
    if partitions < 1 or not 0 < first < 1:
        raise ValueError(f"thermodynamic needs partitions >= 1 and 0 < first < 1, got {partitions=} and {first=}")
    if partitions == 1:
        return from_log_weights(mean)
    betas = np.concatenate([[0.0], np.geomspace(first, 1.0, partitions)])

    def reduce(log_weights: Array) -> Array:
        def expectation(beta):
            return jnp.sum(jax.nn.softmax(beta * log_weights, axis=0) * log_weights, axis=0)

        return sum(float(width) * expectation(float(beta)) for beta, width in zip(betas, np.diff(betas), strict=False))

    return from_log_weights(Reduction(reduce, name=f"thermodynamic:partitions={partitions}", shift_equivariant=True))


def from_log_weights(reduce: Reduction, kl_weight: float | Array = 1.0) -> Objective:
    """The objective whose bound is `reduce` applied to the K log-weights log p(x, z_k) - log q(z_k|x).

    In a warm-up, `kl_weight` multiplies log p(z_k) - log q(z_k|x).
    """

    def objective(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
        q = posterior(apply, params, x)
        f = log_joint(apply, params, x, prior_weight=kl_weight)
        return with_own_loss(q, expect(q, f, reduce, log_q_weight=kl_weight))

    return objective


def log_joint(apply: Callable, params: PyTree, x: PyTree, prior_weight: float | Array = 1.0) -> LogJoint:
    """log p(x|z) + prior_weight log p(z) of a model, as a function of z."""
    log_likelihood = lambda z: apply(params, x, z, method="log_likelihood")
    return LogJoint(log_likelihood, apply(params, method="prior_distribution"), prior_weight)


# A factory for each objective. The argument `epoch` changes at every step, so the training loop passes it.
BY_NAME = Table(
    "objective",
    {
        "elbo_analytic": elbo_analytic,
        "elbo": weighted_elbo,
        "iwae": lambda: iwae,
        "renyi": renyi,
        "thermodynamic": thermodynamic,
    },
    reserved=("epoch",),
)
add = BY_NAME.add
make = BY_NAME.make


def _kl_weight(kl_warmup, epoch, largest=1.0):
    """The weight of the KL at this epoch: it grows from 0 to `largest` over `kl_warmup` epochs."""
    _refuse_negative(kl_warmup=kl_warmup)
    if is_zero(kl_warmup):
        return largest
    if epoch is None:
        raise ValueError(
            "kl_warmup needs epoch, the epoch of the present step; make the objective in each step from state.step"
        )
    return largest * jnp.where(kl_warmup == 0, 1.0, jnp.minimum(1.0, epoch / jnp.maximum(kl_warmup, 1e-9)))


def _refuse_negative(**options: float | np.number | Array) -> None:
    for name, option in options.items():
        if isinstance(option, int | float | np.number) and option < 0:
            raise ValueError(f"{name}={option} is below 0")
