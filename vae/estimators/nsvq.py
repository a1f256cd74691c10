"""Noise substitution in vector quantization, NSVQ (Vali & Bäckström 2022, doi:10.1109/ACCESS.2022.3147670)."""

import jax

from vae.estimators.contract import Estimator
from vae.estimators.parts.quantization import length, unit
from vae.estimators.tools import attach, integrand, stateless


def nsvq(num_samples: int = 1) -> Estimator:
    """The derivative is that of f at e + |c - e| u, where u is a uniformly random direction: noise takes the place of
    the quantization error, and is as large. Both the encoding and the codebook get a gradient from f.

    The paper also trains the decoder at these points, and so does this estimator. The value is that of f at the code,
    which costs a second evaluation of f.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        del log_q_weight  # log q of the code is 0
        error = q.code - q.encoding
        direction = unit(jax.random.normal(key, (num_samples, *error.shape), error.dtype))
        f = integrand(f, q, 0.0)
        substituted = f(q.encoding + length(error) * direction)
        return attach(reduce(f(q.sample(key, 1))), reduce(substituted))

    return stateless(estimate)
