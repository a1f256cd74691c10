"""The Kullback-Leibler divergence of the pairs of families that have a closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae.distributions.base import event_shape
from vae.distributions.counts import Poisson
from vae.distributions.discrete import Bernoulli, Categorical
from vae.distributions.implicit import Beta, Dirichlet, Gamma
from vae.distributions.location_scale import Laplace, MultivariateNormal, Normal, log_det
from vae.distributions.low_rank import LowRankNormal, log_det_covariance
from vae.distributions.power_spherical import PowerSpherical
from vae.distributions.product import Product
from vae.distributions.quantized import Quantized, Rounded, UniformCodes
from vae.distributions.special import Numbers, deviance, digamma_gap, stirling_error
from vae.distributions.sphere import UniformOnSphere
from vae.distributions.von_mises_fisher import VonMisesFisher, log_normalizer, scaled_shortfall


def kl(q: Any, p: Any) -> Float[Array, "*batch"]:
    """KL(q || p) in nats, in closed form.

    Raises:
      NotImplementedError: if this pair of families has no closed form here; the bound `objectives.elbo` needs none.
      ValueError: if the two distributions have events of different shapes.
    """
    try:
        formula = _KL[type(q), type(p)]
    except KeyError:
        raise NotImplementedError(
            f"KL({type(q).__name__} || {type(p).__name__}) has no closed form here; "
            "choose objective=elbo, which needs none"
        ) from None
    events = [event_shape(q), event_shape(p)]
    if events[0] != events[1]:
        raise ValueError(
            f"the divergence needs two distributions over the same event, got shapes {events[0]} and {events[1]}"
        )
    return formula(q, p)


def add_kl(q: type, p: type, formula: Callable[[Any, Any], Array]) -> None:
    """Adds `formula(q, p)`, KL(q || p) in nats, for a pair of families.

    Raises:
      ValueError: if the pair has a formula already.
    """
    if (q, p) in _KL:
        raise ValueError(f"KL({q.__name__} || {p.__name__}) has a formula already")
    _KL[q, p] = formula


def _kl_normal(q: Normal, p: Normal) -> Float[Array, "*batch"]:
    log_ratio = q.log_var - p.log_var
    standardized = (q.mean - p.mean) * jnp.exp(-0.5 * p.log_var)
    return 0.5 * jnp.sum(jnp.square(standardized) + jnp.exp(log_ratio) - 1 - log_ratio, -1)


def _kl_multivariate_normal(q: MultivariateNormal, p: Normal) -> Float[Array, "*batch"]:
    inverse_scale = jnp.exp(-0.5 * p.log_var)
    trace = jnp.sum(jnp.square(q.factor * inverse_scale[..., None]), axis=(-2, -1))
    quadratic = jnp.sum(jnp.square((q.mean - p.mean) * inverse_scale) + p.log_var - 1, axis=-1)
    return 0.5 * (trace + quadratic) - log_det(q)


def _kl_low_rank_normal(q: LowRankNormal, p: Normal) -> Float[Array, "*batch"]:
    inverse_scale = jnp.exp(-0.5 * p.log_var)
    shared = jnp.sum(jnp.square(q.factor * inverse_scale[..., None]), axis=-1)
    trace = jnp.exp(q.log_var - p.log_var) + shared
    quadratic = jnp.square((q.mean - p.mean) * inverse_scale) + p.log_var - 1
    return 0.5 * (jnp.sum(trace + quadratic, axis=-1) - log_det_covariance(q))


def _kl_laplace(q: Laplace, p: Laplace) -> Float[Array, "*batch"]:
    distance, log_ratio = jnp.abs(q.mean - p.mean), q.log_scale - p.log_scale
    # The exponents are summed before exp, because a scale itself would underflow.
    spread = jnp.exp(log_ratio - distance * jnp.exp(-q.log_scale))
    return jnp.sum(spread + distance * jnp.exp(-p.log_scale) - 1 - log_ratio, axis=-1)


def _kl_gamma(q: Gamma, p: Gamma) -> Float[Array, "*batch"]:
    log_ratio = (q.log_concentration - p.log_concentration) + (p.log_rate - q.log_rate)  # of the means
    of_means = deviance(p.log_concentration, log_ratio)
    return jnp.sum(of_means + _of_concentrations(q.log_concentration, p.log_concentration), axis=-1)


def _kl_dirichlet(q: Dirichlet, p: Dirichlet) -> Float[Array, "*batch"]:
    log_a, log_b = q.log_concentration, p.log_concentration
    log_ratio = jax.nn.log_softmax(log_a, axis=-1) - jax.nn.log_softmax(log_b, axis=-1)  # of the means
    of_means = deviance(log_b, log_ratio)
    of_sums = _of_concentrations(jax.nn.logsumexp(log_a, axis=-1), jax.nn.logsumexp(log_b, axis=-1))
    return jnp.sum(of_means + _of_concentrations(log_a, log_b), axis=-1) - of_sums


def _kl_beta(q: Beta, p: Beta) -> Float[Array, "*batch"]:
    return jnp.sum(_kl_dirichlet(q.as_dirichlet, p.as_dirichlet), axis=-1)


def _kl_power_spherical(q: PowerSpherical, p: UniformOnSphere) -> Float[Array, "*batch"]:
    """The KL of the coordinate along the direction: given this coordinate, both distributions are uniform."""
    along = q.along
    return _kl_beta(along, Beta(along.log_beta, along.log_beta))


def _kl_von_mises_fisher(q: VonMisesFisher, p: UniformOnSphere) -> Float[Array, "*batch"]:
    concentration = jnp.exp(q.log_concentration)
    below = scaled_shortfall(concentration, p.dimensions)
    return -(below + log_normalizer(concentration, p.dimensions))[..., 0]


def _of_concentrations(log_a: Numbers, log_b: Numbers) -> Float[Array, "*#shape"]:
    """The divergence of two Gamma distributions with the same mean and the concentrations a and b."""
    log_ratio = log_a - log_b
    return jnp.expm1(-log_ratio) * digamma_gap(log_a) + 0.5 * log_ratio - stirling_error(log_a) + stirling_error(log_b)


def _kl_poisson(q: Poisson, p: Poisson) -> Float[Array, "*batch"]:
    return jnp.sum(deviance(q.log_mean, p.log_mean - q.log_mean), axis=-1)


def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Float[Array, "*batch"]:
    return jnp.sum(_weighted(q, p, 1) + _weighted(q, p, -1), axis=-1)


def _weighted(q: Bernoulli, p: Bernoulli, sign: int) -> Float[Array, "*batch D"]:
    """P(bit) log(P(bit) / Q(bit)) for the bits 1 (sign = 1) or 0 (sign = -1); zero if the bit is impossible."""
    probability = jax.nn.sigmoid(sign * q.logits)
    log_ratio = jax.nn.log_sigmoid(sign * q.logits) - jax.nn.log_sigmoid(sign * p.logits)
    return probability * jnp.where(probability > 0, log_ratio, 0.0)


def _kl_categorical(q: Categorical, p: Categorical) -> Float[Array, "*batch"]:
    log_ratio = jax.nn.log_softmax(q.logits) - jax.nn.log_softmax(p.logits)
    return jnp.sum(q.mean * jnp.where(q.mean > 0, log_ratio, 0.0), axis=(-2, -1))


def _kl_product(q: Product, p: Product) -> Float[Array, "*batch"]:
    return sum(kl(of_q, of_p) for of_q, of_p in zip(q.blocks, p.blocks, strict=True))


def _kl_codes(q: Quantized | Rounded, p: UniformCodes) -> Float[Array, "*batch"]:
    return jnp.full(q.batch_shape, p.nats, q.encoding.dtype)


_KL: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
    (Normal, Normal): _kl_normal,
    (MultivariateNormal, Normal): _kl_multivariate_normal,
    (LowRankNormal, Normal): _kl_low_rank_normal,
    (Laplace, Laplace): _kl_laplace,
    (Gamma, Gamma): _kl_gamma,
    (Beta, Beta): _kl_beta,
    (Dirichlet, Dirichlet): _kl_dirichlet,
    (Poisson, Poisson): _kl_poisson,
    (PowerSpherical, UniformOnSphere): _kl_power_spherical,
    (VonMisesFisher, UniformOnSphere): _kl_von_mises_fisher,
    (Bernoulli, Bernoulli): _kl_bernoulli,
    (Categorical, Categorical): _kl_categorical,
    (Product, Product): _kl_product,
    (Quantized, UniformCodes): _kl_codes,
    (Rounded, UniformCodes): _kl_codes,
}
