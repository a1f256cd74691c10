"""Estimators with a published or a likely mistake. A test that cannot see them proves nothing."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators import Estimator, integrand, mean, scale_cotangent, stateless
from vae.estimators.parts.score_function import score_surrogate
from vae.estimators.stl import stl


def vimco_without_direct_term(num_samples: int = 2) -> Estimator:
    """A score function that forgets that f also depends on q through log q(z)."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, stop_gradient(q), log_q_weight)(z)
        return score_surrogate(q, z, values, values[::-1], reduce)

    return stateless(estimate)


def dreg_with_weights(encoder_power: int, decoder_power: int, num_samples: int = 2) -> Estimator:
    """DReG with these powers of the weights; the right ones are 2 and 1."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        frozen = integrand(f, stop_gradient(q), log_q_weight)
        w = jax.nn.softmax(stop_gradient(frozen(z)), axis=0)
        scaled = scale_cotangent(z, w ** (encoder_power - 1))
        return reduce(scale_cotangent(frozen(scaled), w ** (decoder_power - 1)))

    return stateless(estimate)


def leave_one_out_shrunk(num_samples: int = 2) -> Estimator:
    """A score function whose baseline is the mean of all samples, its own included."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, q, log_q_weight)(z)
        own_mean = jnp.broadcast_to(mean(values), values.shape)
        return score_surrogate(q, z, values, own_mean, reduce)

    return stateless(estimate)


class _Detached(NamedTuple):
    """A posterior whose samples have no pathwise derivative, because rsample is sample."""

    q: object

    @property
    def batch_shape(self):
        return self.q.batch_shape

    def sample(self, key, num_samples):
        return self.q.sample(key, num_samples)

    def rsample(self, key, num_samples):
        return self.q.sample(key, num_samples)

    def log_prob(self, z):
        return self.q.log_prob(z)


def detached(make: Callable[[int], Estimator], num_samples: int) -> Estimator:
    """A pathwise estimator whose samples have lost their derivative."""
    inner = make(num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        return inner.estimate(params, state, key, _Detached(q), f, reduce, log_q_weight, context)

    return Estimator(inner.init, estimate)


def known_slips(bound: str, num_samples: int, differentiable: bool) -> dict[str, Estimator]:
    """The slips that can be made with a bound of K samples; some need latents that can be reparameterized."""
    if bound == "log_mean_exp":
        slips = {"VIMCO without its direct term": vimco_without_direct_term(num_samples)}
        dreg = dreg_with_weights(1, 1, num_samples)
        return slips | ({"DReG with the weights w instead of w^2": dreg} if differentiable else {})
    slips = {"leave-one-out divided by K": leave_one_out_shrunk()}
    return slips | ({"sampling detached from the path": detached(stl, 1)} if differentiable else {})
