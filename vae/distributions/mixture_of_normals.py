"""The mixture of factorized Gaussians, whose samples are differentiated implicitly (arXiv:1805.08498)."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import Reparameterizable, Vectors, family
from vae.distributions.location_scale import Normal
from vae.distributions.mixture import Mixture
from vae.distributions.special import HALF_LOG_2PI, first_derivative_only


@family
class MixtureOfNormals(Reparameterizable):
    """C factorized Gaussians with means and log-variances `[*batch, C, D]`, and with the logits of their weights.

    The gradient of a sample keeps the distribution functions of z_1, of z_2 given z_1, and so on at their values
    (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498, section 3.3). The gradient is unbiased in all parameters. Its
    variance grows where the density between two components is small, and is infinite if they are far apart: the
    objective `siwae` needs no implicit gradient.
    """

    means: Float[Array, "*batch C D"]
    log_vars: Float[Array, "*batch C D"]
    logits: Float[Array, "*batch C"]
    factorized = False
    is_real = True

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.means.shape[-1:]

    @property
    def mixture(self) -> Mixture:
        """The same distribution, whose samples carry no gradient."""
        return Mixture(self.logits, Normal(self.means, self.log_vars))

    @property
    def mean(self) -> Float[Array, "*batch D"]:
        return self.mixture.mean

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self.implicit(self.mixture.sample(key, num_samples))

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return self.mixture.log_prob(z)

    def implicit(self, z: Vectors) -> Float[Array, "*#samples D"]:
        """z, with the derivative in the parameters that keeps the conditional distribution functions the same."""

        def step(log_weights, coordinate):  # log_weights [K, *batch, C]: of the components, given earlier coordinates
            z, mean, log_var = coordinate
            z = _implicit(z, log_weights, mean, log_var)
            return log_weights + _log_density(z, mean, log_var), z

        # In a second derivative, jax would lose the rule of `_implicit` inside of the scan.
        means, log_vars, logits = map(first_derivative_only, (self.means, self.log_vars, self.logits))
        coordinates = [jnp.moveaxis(each, -1, 0) for each in (stop_gradient(z), means, log_vars)]
        log_weights = jnp.broadcast_to(logits, (*z.shape[:-1], logits.shape[-1]))
        return jnp.moveaxis(jax.lax.scan(step, log_weights, tuple(coordinates))[1], 0, -1)

    @property
    def strata(self) -> Normal:
        """The distribution of one sample of each component: a Gaussian with C D dimensions, for stratified sampling."""
        flat = lambda leaf: leaf.reshape(*self.batch_shape, -1)
        return Normal(flat(self.means), flat(self.log_vars))

    def over_strata(self, f, z: Float[Array, "K *batch N"]) -> Float[Array, "C K *batch"]:
        """f at each component's part of z, a sample of `strata`; f maps `[K, *batch, D]` to `[K, *batch]`."""
        parts = jnp.moveaxis(z.reshape(len(z), *self.means.shape), -2, 0)  # [C, K, *batch, D]
        return f(parts.reshape(-1, *parts.shape[2:])).reshape(parts.shape[:-1])


def _log_density(
    z: Float[Array, "*samples"], mean: Float[Array, "*batch C"], log_var: Float[Array, "*batch C"]
) -> Float[Array, "*samples C"]:
    """The log-density of each component, in one dimension."""
    standardized = (z[..., None] - mean) * jnp.exp(-0.5 * log_var)
    return -0.5 * (jnp.square(standardized) + log_var) - HALF_LOG_2PI


@jax.custom_jvp
def _implicit(z, log_weights, mean, log_var):
    """z `[K, *batch]` in one dimension, as the quantile of a mixture with weights `[K, *batch, C]`."""
    del log_weights, mean, log_var
    return z


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    _, log_weights, mean, log_var = primals
    _, log_weights_dot, mean_dot, log_var_dot = tangents
    z = _implicit(*primals)
    log_weights = jax.nn.log_softmax(log_weights, axis=-1)
    log_joint = log_weights + _log_density(z, mean, log_var)
    log_p = jax.nn.logsumexp(log_joint, axis=-1, keepdims=True)
    # Every component carries its share of the density along, and new weights carry density from one to another.
    along = jnp.exp(log_joint - log_p) * (mean_dot + 0.5 * (z[..., None] - mean) * log_var_dot)
    weights = jnp.exp(log_weights)
    weights_dot = weights * (log_weights_dot - jnp.sum(weights * log_weights_dot, axis=-1, keepdims=True))
    standardized = (z[..., None] - mean) * jnp.exp(-0.5 * log_var)
    below, above = ndtr(standardized), ndtr(-standardized)
    # The changes of the weights sum to 0, so above and below differ by the sign; the smaller of them has more digits.
    upper_half = jnp.sum(weights * below, axis=-1, keepdims=True) > 0.5
    across = weights_dot * jnp.where(upper_half, -above, below) * jnp.exp(-log_p)
    return z, jnp.sum(along - across, axis=-1)
