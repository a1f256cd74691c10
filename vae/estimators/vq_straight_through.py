"""The straight-through estimator of quantizers (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937; for finite
scalar quantization Mentzer et al. 2023, arXiv:2309.15505)."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, integrand, stateless


def vq_straight_through(num_samples: int = 1) -> Estimator:
    """The forward pass uses the code; the backward pass takes the encoding in its place. The codebook gets no gradient
    from f, and learns from the loss of `Quantized` alone."""

    def estimate(key, q, f, reduce, log_q_weight):
        del key, log_q_weight  # the code is deterministic, and log q of it is 0
        z = attach(q.code, jnp.asarray(q.encoding))
        return reduce(integrand(f, q, 0.0)(jnp.broadcast_to(z, (num_samples, *z.shape))))

    return stateless(estimate)
