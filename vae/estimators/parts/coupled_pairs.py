"""Coupled pairs: z and its partner both follow q and are negatively correlated. The signal is the change of f between
them.

ARM, DisARM and DisARM-IW use one formula: d/d logits E[h(z)] = E[(h(z) - h(partner)) weight]. Here h(z) is the reduced
value as a function of one sample, with the other samples fixed. The estimators differ in the pair and in its weight.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae import distributions
from vae.distributions import Bernoulli
from vae.estimators.contract import Estimator
from vae.estimators.parts.score_function import learning_signal
from vae.estimators.tools import held, inject, integrand, stateless


def coupled_pairs(couple: Callable, num_samples: int) -> Estimator:
    """Makes an estimator from a coupling: `couple(key, q, n)` returns z, partner and weight, all `[n, *batch, *event]`.

    For the mean, there are num_samples / 2 pairs, and f is evaluated num_samples times. Every other bound has
    K = num_samples independent samples with one partner each, and f is evaluated 2 K times.

    Raises:
      ValueError: from `estimate`, if the reduction is additive and num_samples is odd.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        if reduce.additive:
            if num_samples % 2:
                raise ValueError(
                    f"estimators of coupled pairs, such as arm and disarm, need an even number of samples, got"
                    f" num_samples={num_samples}"
                )
            z, partner, weight = couple(key, q, num_samples // 2)
            z = jnp.concatenate([z, partner])
            weight = jnp.concatenate([weight, -weight])
            values = f(z)  # [K, *batch]
            opposite = jnp.roll(values, num_samples // 2, axis=0)
        else:
            z, partner, weight = couple(key, q, num_samples)
            values = f(z)
            opposite = f(partner)
        signal = learning_signal(values, opposite, reduce)  # [K, *batch]
        signal = signal.reshape(signal.shape + (1,) * (weight.ndim - signal.ndim))
        return reduce(values) + inject(q.logits, jnp.sum(signal * weight, axis=0), len(q.batch_shape))

    return stateless(estimate)


def antithetic_bits(
    key: PRNGKeyArray, q: Bernoulli, n: int
) -> tuple[Float[Array, "n *batch D"], Float[Array, "n *batch D"], Float[Array, "n *batch D"]]:
    """Returns uniform numbers u, the bits that u gives, and the bits that 1 - u gives."""
    u = distributions.uniform(key, (n, *q.logits.shape), q.logits.dtype)
    return u, q.threshold(u), q.threshold(1 - u)
