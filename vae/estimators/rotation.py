"""The rotation trick (Fifty et al. 2024, arXiv:2410.06424)."""

import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimator
from vae.estimators.parts.quantization import length, unit
from vae.estimators.tools import attach, integrand, stateless


def rotation(num_samples: int = 1) -> Estimator:
    """The code c is the encoding e, rotated in the plane of both and rescaled; the backward pass treats the rotation
    and the scale as constants. The codebook gets no gradient from f, and learns from the loss of `Quantized` alone.

    The scale |c| / |e| is large for short encodings. An encoding of zero has the scale 1.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        del key, log_q_weight  # the code is deterministic, and log q of it is 0
        from_e, to_c = (stop_gradient(unit(x)) for x in (q.encoding, q.code))
        middle = unit(from_e + to_c)
        along = lambda direction: jnp.sum(q.encoding * direction, axis=-1, keepdims=True)
        rotated = q.encoding - 2 * along(middle) * middle + 2 * along(from_e) * to_c
        size = stop_gradient(length(q.encoding))
        scale = jnp.where(size > 0, stop_gradient(length(q.code)) / jnp.where(size > 0, size, 1.0), 1.0)
        z = attach(q.code, scale * rotated)
        return reduce(integrand(f, q, 0.0)(jnp.broadcast_to(z, (num_samples, *z.shape))))

    return stateless(estimate)
