"""Distributions of counts 0, 1, 2, ...: Poisson and negative binomial, with the logs of their means as parameters.

The densities are written with the small parts that remain when log-gammas cancel on paper (special.py), so that they
are right in float32 for means of any size. Between the counts they are continuous, for relaxed counts; below 0 they are
-inf. Samples are float32 and carry no gradient; above 2^24 they are rounded to the floats.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Vectors, family
from vae.distributions.special import HALF_LOG_2PI, Numbers, deviance, log_gamma_draws, softplus, stirling_error

# The mean above which Poisson counts are drawn by a normal approximation.
_MANY = 1e4


class _ByLogMean:
    """Base of the families that are given by the log of their mean."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.log_mean.shape[:-1]

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return jnp.exp(self.log_mean)


@family
class Poisson(_ByLogMean):
    """Factorized Poisson by the log of its mean, `[*batch, D]`."""

    log_mean: Float[Array, "*batch D"]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return _poisson(key, jnp.broadcast_to(self.mean, (num_samples, *self.mean.shape)))

    def log_prob(self, x: Vectors) -> Float[Array, "*#samples"]:
        log_x = jnp.log(jnp.where(x >= 1, x, 1.0))
        positive = -deviance(log_x, self.log_mean - log_x) - 0.5 * log_x - HALF_LOG_2PI - stirling_error(log_x)
        # Only relaxed counts lie between 0 and 1.
        part = jnp.where((x > 0) & (x < 1), x, 0.0)
        below_one = part * self.log_mean - self.mean - gammaln(1 + part)
        log_density = jnp.where(x >= 1, positive, jnp.where(x > 0, below_one, -self.mean))
        return jnp.sum(jnp.where(x < 0, -jnp.inf, log_density), axis=-1)


@family
class NegativeBinomial(_ByLogMean):
    """Factorized negative binomial by the logs of its mean m and of its concentration r, both `[*batch, D]`.

    The variance is m + m^2 / r. The distribution is that of a Poisson whose mean is drawn from Gamma(r, r / m). It goes
    to Poisson(m) as r grows.
    """

    log_mean: Float[Array, "*batch D"]
    log_concentration: Float[Array, "*batch D"]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        key_mean, key_count = jax.random.split(key)
        log_gamma = log_gamma_draws(key_mean, self.log_concentration, num_samples)
        return _poisson(key_count, jnp.exp(log_gamma + self.log_mean - self.log_concentration))

    def log_prob(self, x: Vectors) -> Float[Array, "*#samples"]:
        log_m, log_r, log_x = self.log_mean, self.log_concentration, jnp.log(jnp.where(x > 0, x, 1.0))
        log_xr, log_mr = jnp.logaddexp(log_x, log_r), jnp.logaddexp(log_m, log_r)
        # x log(x / m) - (x + r) log((x + r) / (m + r)): two deviances, which would cancel if r were small.
        deviances = deviance(log_x, log_m - log_x) - deviance(log_xr, log_mr - log_xr)
        of_small_r = jnp.exp(log_x) * (softplus(log_r - log_m) - softplus(log_r - log_x))
        of_small_r -= jnp.exp(log_r) * (log_xr - log_mr)
        exponent = jnp.where(log_m - log_r > 3, of_small_r, deviances)
        errors = stirling_error(log_xr) - stirling_error(log_r) - stirling_error(log_x)
        positive = errors - exponent - 0.5 * (softplus(log_x - log_r) + log_x) - HALF_LOG_2PI
        none = -jnp.exp(log_r) * softplus(log_m - log_r)
        log_density = jnp.where(x > 0, positive, none)
        return jnp.sum(jnp.where(x < 0, -jnp.inf, log_density), axis=-1)


def _poisson(key: PRNGKeyArray, mean: Numbers) -> Float[Array, "*#shape"]:
    """Draws without a gradient.

    jax.random.poisson rejects by log-probabilities that lose their digits, and its counts end at 2^31. Means above 10^4
    have the first terms of the Cornish-Fisher expansion instead, whose error there is of the order of 1 / mean.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":  # the only generator that jax.random.poisson takes
        key = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
    few = jax.random.poisson(key, jnp.minimum(mean, _MANY)).astype(mean.dtype)
    eps = jax.random.normal(jax.random.fold_in(key, 1), mean.shape, mean.dtype)
    many = jnp.round(mean + jnp.sqrt(mean) * eps + (jnp.square(eps) - 1) / 6)
    return stop_gradient(jnp.where(mean > _MANY, many, few))
