"""Differentiable vector quantization, DiVeQ (Vali, Bäckström & Solin 2025, arXiv:2509.26469)."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.parts.quantization import length, unit
from vae.estimators.tools import attach, check_positive, integrand, stateless


def diveq(num_samples: int = 1, sigma: float = 1e-3) -> Estimator:
    """The code is e + |c - e| u. The backward pass treats u, the direction of c - e + sigma * noise, as a constant.

    So both the encoding and the codebook get a gradient from f. Without noise, the encoding gets the part of the
    gradient across c - e, and the code gets the part along c - e; if codes are single numbers, the encoding then gets
    nothing. The published program passes e + |c - e| u to the decoder. This estimator passes c, which differs from it
    by less than sigma times the length of the noise, or by a small multiple of |c - e| if that is less.
    """
    check_positive(sigma=sigma)

    def estimate(key, q, f, reduce, log_q_weight):
        del log_q_weight  # log q of the code is 0
        error = q.code - q.encoding
        noise = jax.random.normal(key, (num_samples, *error.shape), error.dtype)
        path = q.encoding + length(error) * stop_gradient(unit(error + sigma * noise))
        return reduce(integrand(f, q, 0.0)(attach(jnp.broadcast_to(q.code, path.shape), path)))

    return stateless(estimate)
