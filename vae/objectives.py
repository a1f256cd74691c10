"""Bounds on log p(x), and their table.

Each bound writes itself as an expectation and hands it to `expect`, an estimator with its params, state and key bound.
So an objective names no estimator, and an estimator no objective.

    objective(apply, params, x, expect) -> Estimate with value [B], in nats, to be maximised

`apply` is a model's `apply`, with the methods of `vae.models.VAE`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vae.estimators.contract import Estimate, Expect, Reduction, Samples, log_mean_exp, mean


@runtime_checkable
class Objective(Protocol):
    """A bound on log p(x) for each datum of x `[B, H, W, C]`."""

    def __call__(self, apply: Callable, params: PyTree, x: Array, expect: Expect) -> Estimate: ...


def elbo(apply: Callable, params: PyTree, x: Array, expect: Expect) -> Estimate:
    """E_q[log p(x, z) - log q(z|x)], all of it by Monte Carlo (Kingma & Welling 2013, arXiv:1312.6114, eq. 2)."""
    return from_log_weights(mean)(apply, params, x, expect)


def elbo_analytic(
    beta: float | Array = 1.0,
    free_bits: float | Array = 0.0,
    kl_warmup: float | Array = 0.0,
    epoch: float | Array = 0.0,
) -> Objective:
    """The objective E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), with the KL in closed form (arXiv:1312.6114, eq. 7).

    Args:
      beta: weight of the KL; 1 is the ELBO (Higgins et al. 2017, beta-VAE).
      free_bits: nats of KL that each latent dimension has for free, on average over the batch (Kingma et al. 2016,
        arXiv:1606.04934, eq. 15); 0 for none. Needs a factorized posterior.
      kl_warmup: number of epochs over which beta grows linearly from 0; 0 for none.
      epoch: the (fractional) epoch of the present step, for `kl_warmup`. Every argument may be a traced array, except
        that a Python 0 of `free_bits` or `kl_warmup` leaves the code for it out.
    """
    if not _is_zero(kl_warmup):
        beta = beta * jnp.minimum(1.0, epoch / kl_warmup)

    def objective(apply: Callable, params: PyTree, x: Array, expect: Expect) -> Estimate:
        q = apply(params, x, method="encode")
        reconstruction = expect(q, lambda z: apply(params, x, z, method="log_likelihood"), mean)
        if _is_zero(free_bits):
            rate = apply(params, q, method="kl_to_prior")  # [B]
        else:
            rates = apply(params, q, per_dimension=True, method="kl_to_prior")  # [B, D]
            paid = jnp.mean(rates, axis=0) > free_bits  # [D]
            rate = jnp.sum(jnp.where(paid, rates, free_bits), axis=-1)
        return reconstruction._replace(value=reconstruction.value - beta * rate)

    return objective


def iwae(apply: Callable, params: PyTree, x: Array, expect: Expect) -> Estimate:
    """E[log (1/K) sum_k p(x, z_k) / q(z_k|x)] (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519). K is the
    estimator's num_samples."""
    return from_log_weights(log_mean_exp)(apply, params, x, expect)


def renyi(alpha: float = 0.5) -> Objective:
    """The VR-IWAE bound E[log (1/K) sum_k w_k^(1-alpha)] / (1 - alpha) (Daudel et al. 2023, arXiv:2210.06226), the
    Monte Carlo form of Renyi's (Li & Turner 2016, arXiv:1602.02311).

    At alpha = 0 it is the importance-weighted bound; as alpha approaches 1 it becomes the ELBO.

    Raises:
      ValueError: unless 0 <= alpha < 1.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}; at 1 take the objective elbo")
    if alpha == 0:
        return from_log_weights(log_mean_exp)

    def reduce(log_weights: Array) -> Array:
        return log_mean_exp((1 - alpha) * log_weights) / (1 - alpha)

    return from_log_weights(Reduction(reduce, name=f"renyi:alpha={alpha}", shift_equivariant=True))


def thermodynamic(partitions: int = 5, first: float = 0.025) -> Objective:
    """The thermodynamic variational objective (Masrani, Le & Wood 2019, arXiv:1907.00031): the left Riemann sum of the
    integral over beta of E_{pi_beta}[log w], pi_beta ~ q^(1-beta) p^beta, by self-normalized weights w^beta.

    The K-sample estimate itself is differentiated; like the paper's covariance gradient, it is off by O(1/K).

    Args:
      partitions: number of terms; one term is the ELBO.
      first: the smallest positive beta. The other betas are spaced evenly in log beta up to 1.

    Raises:
      ValueError: unless partitions >= 1 and 0 < first < 1.
    """
    if partitions < 1 or not 0 < first < 1:
        raise ValueError(f"needs partitions >= 1 and 0 < first < 1, got {partitions} and {first}")
    if partitions == 1:
        return from_log_weights(mean)
    betas = np.concatenate([[0.0], np.geomspace(first, 1.0, partitions)])

    def reduce(log_weights: Array) -> Array:
        def expectation(beta):
            return jnp.sum(jax.nn.softmax(beta * log_weights, axis=0) * log_weights, axis=0)

        return sum(float(width) * expectation(float(beta)) for beta, width in zip(betas, np.diff(betas), strict=False))

    return from_log_weights(Reduction(reduce, name=f"thermodynamic:partitions={partitions}", shift_equivariant=True))


def from_log_weights(reduce: Reduction) -> Objective:
    """The bound that is a reduction of the K log-weights log p(x, z_k) - log q(z_k|x)."""

    def objective(apply: Callable, params: PyTree, x: Array, expect: Expect) -> Estimate:
        q = apply(params, x, method="encode")
        return expect(q, lambda z: apply(params, x, z, method="log_joint"), reduce, log_q_weight=1.0)

    return objective


# A factory for each objective; its keyword arguments are the objective's options. The factories of options with a value
# of their own at every step (`epoch`) get that value from the training loop.
BY_NAME: dict[str, Callable[..., Objective]] = {
    "elbo_analytic": elbo_analytic,
    "elbo": lambda: elbo,
    "iwae": lambda: iwae,
    "renyi": renyi,
    "thermodynamic": thermodynamic,
}


def add(name: str, factory: Callable[..., Objective]) -> None:
    """Adds an objective to the table, so that the command line and the laboratory know it.

    Raises:
      ValueError: if the name is taken.
    """
    if name in BY_NAME:
        raise ValueError(f"there is an objective called {name} already; choose another name")
    BY_NAME[name] = factory


def make(name: str, **options: Any) -> Objective:
    """The objective called `name`: `make("renyi", alpha=0.3)`.

    Raises:
      ValueError: if there is no such objective, or an option cannot be what it is.
    """
    if name not in BY_NAME:
        raise ValueError(f"there is no objective {name!r}; the objectives are {', '.join(BY_NAME)}")
    return BY_NAME[name](**options)


def posterior_terms(
    apply: Callable, params: PyTree, x: Array, q: Any, z: Samples
) -> tuple[Float[Array, "K B"], Float[Array, "K B"]]:
    """log p(x|z) and log p(z) - log q(z|x). Their sum is the log importance weight."""
    log_prior = apply(params, method="prior_distribution").log_prob(z)
    return apply(params, x, z, method="log_likelihood"), log_prior - q.log_prob(z)


def _is_zero(option: float | Array) -> bool:
    return isinstance(option, int | float) and option == 0
