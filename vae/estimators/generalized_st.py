"""The generalized straight-through estimator of least norm (Hooper & Shekhovtsov 2026, openreview:5LZQfHUVER)."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.distributions import Categorical
from vae.distributions.discrete import IMPOSSIBLE
from vae.estimators.contract import Estimator
from vae.estimators.tools import attach, held, integrand, stateless


def generalized_st(num_samples: int = 1) -> Estimator:
    """The backward pass multiplies the derivative of f by a matrix that depends on the sample.

    Of all matrices that make the expected gradient exact if f is quadratic in each latent variable, given the others,
    these have the least expected squared norm. ReinMax has this property at temperature 1 with another matrix, and with
    the same one if there are two classes. With p the probabilities of q, sample i and dl a change of the logits, the
    change of z is

      dz_i = (dl_i - p'dl) / 2,    dz_j = p_j / (p_i + p_j) (y_j - y_i) for the other j,    y = `potentials(q, dl)`.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        at_sample = lambda x: jnp.sum(jnp.where(hard == 1, x, 0), axis=-1, keepdims=True)
        logits = jnp.maximum(stop_gradient(q.logits), IMPOSSIBLE)
        y = potentials(q)
        centred = q.logits - jnp.sum(stop_gradient(q.mean) * q.logits, axis=-1, keepdims=True)
        others = jax.nn.sigmoid(logits - at_sample(logits)) * (y - at_sample(y))
        z = attach(hard, jnp.where(hard == 1, centred / 2, others))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return stateless(estimate)


def potentials(q: Categorical) -> Float[Array, "*batch D C"]:
    """A function of the logits whose derivative is G^+ J / 2: J is the Jacobian of softmax, and G^+ the pseudo-inverse
    of the Laplacian of a graph that joins classes i and j with the weight p_i p_j / (p_i + p_j).

    The Laplacian is divided by the roots of its diagonal, after which it is well conditioned for all probabilities.
    """
    p = stop_gradient(q.mean)
    logits = jnp.maximum(stop_gradient(q.logits), IMPOSSIBLE)
    identity = jnp.eye(p.shape[-1], dtype=p.dtype)
    joined = (1 - identity) * p[..., :, None] * jax.nn.sigmoid(logits[..., None, :] - logits[..., :, None])
    degree = jnp.sum(joined, axis=-1)
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    total = jnp.maximum(jnp.sum(degree, axis=-1, keepdims=True), jnp.finfo(p.dtype).tiny)
    null = jnp.sqrt(degree / total)  # the scaled Laplacian maps it to 0
    scaled = identity - scale[..., :, None] * joined * scale[..., None, :]
    scaled = scaled + null[..., :, None] * null[..., None, :]
    jacobian_times_logits = p * (q.logits - jnp.sum(p * q.logits, axis=-1, keepdims=True))
    return 0.5 * scale * jnp.linalg.solve(scaled, (scale * jacobian_times_logits)[..., None])[..., 0]
