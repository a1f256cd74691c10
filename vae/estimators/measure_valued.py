"""Measure-valued derivatives (Pflug 1989; Mohamed et al. 2020, arXiv:1906.10652, section 6).

The derivative of a density is a constant times the difference of two densities. So the derivative of an expectation is
a constant times the difference of two expectations.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae.distributions import Bernoulli, Normal, Poisson
from vae.estimators.contract import Estimator, Integrand
from vae.estimators.tools import held, inject, integrand, stateless


def measure_valued(num_samples: int = 1) -> Estimator:
    """Compares f at two coupled values of one latent dimension at a time.

    f is evaluated K times at the samples, and 2 D K times for each parameter of q. The two values of z_d are:

      mean of a Normal:      mean + scale W and mean - scale W, with the same Rayleigh variable W
      log_var of a Normal:   mean + scale M and mean + scale U M, with M double-sided Maxwell and U uniform, so that U M
                             is standard normal
      logits of a Bernoulli: 1 and 0
      log_mean of a Poisson: z_d + 1 and z_d, the GO gradient (Cong et al. 2019, arXiv:1901.06020)
    """

    def estimate(key, q, f, reduce, log_q_weight):
        key_z, key_pair = jax.random.split(key)
        z = q.sample(key_z, num_samples)  # [K, *batch, D]
        pairs = _PAIRS[type(q)](q, key_pair, z)
        differences = _differences(integrand(f, q, log_q_weight), z, pairs)  # [parameters, *batch, D]
        parameters = [pair.parameter for pair in pairs]
        grads = [pair.weight * difference for pair, difference in zip(pairs, differences, strict=True)]
        bound = reduce(integrand(f, held(q, reduce), log_q_weight)(z))
        return bound + inject(parameters, grads, len(q.batch_shape))

    return stateless(estimate)


class _Pair(NamedTuple):
    """The derivative of an expectation in a parameter `[*batch, D]` of q.

    It is the weight `[*batch, D]` times the difference of f at two coupled values of z_d, both `[K, *batch, D]`.
    """

    parameter: Array
    weight: Array
    first: Array
    second: Array


def _pairs_of_bits(q: Bernoulli, key: Array, z: Array) -> list[_Pair]:
    del key
    ones = jnp.ones_like(z)
    return [_Pair(q.logits, weight=q.mean * (1 - q.mean), first=ones, second=jnp.zeros_like(ones))]


def _pairs_of_counts(q: Poisson, key: Array, z: Array) -> list[_Pair]:
    del key
    return [_Pair(q.log_mean, weight=q.mean, first=z + 1, second=z)]


def _pairs_of_normals(q: Normal, key: Array, z: Array) -> list[_Pair]:
    key_rayleigh, key_maxwell, key_sign, key_uniform = jax.random.split(key, 4)
    shape, dtype = z.shape, z.dtype
    rayleigh = jnp.sqrt(2 * jax.random.exponential(key_rayleigh, shape, dtype))  # jax.random.rayleigh can return inf
    maxwell = jax.random.maxwell(key_maxwell, shape, dtype) * jax.random.rademacher(key_sign, shape, dtype)
    normal = jax.random.uniform(key_uniform, shape, dtype) * maxwell
    weight_of_mean = 1 / (q.scale * jnp.sqrt(2 * jnp.pi))
    return [
        _Pair(q.mean, weight_of_mean, first=q.from_noise(rayleigh), second=q.from_noise(-rayleigh)),
        _Pair(q.log_var, jnp.full_like(q.scale, 0.5), first=q.from_noise(maxwell), second=q.from_noise(normal)),
    ]


_PAIRS = {Bernoulli: _pairs_of_bits, Normal: _pairs_of_normals, Poisson: _pairs_of_counts}


def _differences(f: Integrand, z: Array, pairs: list[_Pair]) -> Array:
    """The mean over samples of f(z with z_d = first) - f(z with z_d = second), `[parameters, *batch, D]`."""
    width = z.shape[-1]
    axes = jnp.eye(width, dtype=bool).reshape(width, *[1] * (z.ndim - 1), width)
    # [parameters, 2, K, *batch, D]; f need not have a gradient
    values = jax.lax.stop_gradient(jnp.asarray([(pair.first, pair.second) for pair in pairs]))
    replaced = jnp.where(axes, values[:, :, None], z)  # [parameters, 2, D, K, *batch, D]
    lead = replaced.shape[:4]
    out = f(replaced.reshape(math.prod(lead), *z.shape[1:])).reshape(*lead, *z.shape[1:-1])
    return jnp.moveaxis(jnp.mean(out[:, 0] - out[:, 1], axis=2), 1, -1)
