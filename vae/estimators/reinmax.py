"""ReinMax (Liu, Dong, Liu, Yu & Gao 2023, arXiv:2304.08612): straight-through of second order."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.tools import attach, check_positive, held, integrand, stateless


def reinmax(num_samples: int = 1, temperature: float = 1.0) -> Estimator:
    """Heun's method: dz is replaced by 2 J(halfway) - J(mean) / 2, where J is the Jacobian of softmax and halfway lies
    between the sample and the mean. At temperature 1, exact where f is quadratic in each latent variable."""
    check_positive(temperature=temperature)

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        halfway = stop_gradient(jax.nn.softmax(q.logits / temperature) + hard) / 2
        centred = q.logits - jnp.sum(halfway * q.logits, axis=-1, keepdims=True)
        z = attach(hard, 2 * halfway * centred - q.mean / 2)
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
