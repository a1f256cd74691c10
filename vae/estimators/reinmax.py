"""ReinMax (Liu, Dong, Liu, Yu & Gao 2023, arXiv:2304.08612): a second-order straight-through estimator."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.tools import attach, check_positive, held, integrand, stateless


def reinmax(num_samples: int = 1, temperature: float = 1.0) -> Estimator:
    """The backward pass replaces the derivative of z in the logits by 2 J(halfway) - J(mean) / 2 (Heun's method).

    J(p) = diag(p) - p p' is the Jacobian of softmax at the probabilities p, and halfway is the midpoint of the sample
    and softmax(logits / temperature). At temperature 1, the expected gradient is exact if f is quadratic in each latent
    variable, given the others.
    """
    check_positive(temperature=temperature)

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        halfway = stop_gradient(jax.nn.softmax(q.logits / temperature) + hard) / 2
        centred = q.logits - jnp.sum(halfway * q.logits, axis=-1, keepdims=True)
        z = attach(hard, 2 * halfway * centred - q.mean / 2)
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
