"""Straight-through Gumbel-softmax (Jang, Gu & Poole 2016, arXiv:1611.01144): hard samples, relaxed derivatives."""

import jax

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits, harden, perturb
from vae.estimators.tools import attach, check_positive, held, integrand, stateless


def st_gumbel_softmax(num_samples: int = 1, temperature: float = 0.5) -> Estimator:
    """The forward pass uses the hard sample; the backward pass uses the derivative of the relaxed sample."""
    check_positive(temperature=temperature)

    def estimate(key, q, f, reduce, log_q_weight):
        x = perturb(key, q, num_samples)  # [K, *batch, D, C]
        z = attach(harden(x), jax.nn.softmax(x / temperature))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
