"""The Kullback-Leibler divergence of the pairs of families that have a closed form."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

from vae.distributions.discrete import Bernoulli, Categorical
from vae.distributions.implicit import Beta, Dirichlet, Gamma
from vae.distributions.location_scale import Laplace, MultivariateNormal, Normal, log_det


def kl(q: Any, p: Any) -> Float[Array, "*batch"]:
    """KL(q || p) in nats, in closed form.

    Raises:
      NotImplementedError: if this pair of families has no closed form here; the bound `objectives.elbo` needs none.
    """
    try:
        formula = _KL[type(q), type(p)]
    except KeyError:
        raise NotImplementedError(
            f"KL({type(q).__name__} || {type(p).__name__}) has no closed form here; "
            "choose objective=elbo, which needs none"
        ) from None
    return formula(q, p)


def _kl_normal(q: Normal, p: Normal) -> Float[Array, "*batch"]:
    log_ratio = q.log_var - p.log_var
    return 0.5 * jnp.sum(jnp.square(q.mean - p.mean) * jnp.exp(-p.log_var) + jnp.exp(log_ratio) - 1 - log_ratio, -1)


def _kl_multivariate_normal(q: MultivariateNormal, p: Normal) -> Float[Array, "*batch"]:
    precision = jnp.exp(-p.log_var)
    trace = jnp.sum(jnp.square(q.cholesky) * precision[..., None], axis=(-2, -1))
    quadratic = jnp.sum(jnp.square(q.mean - p.mean) * precision + p.log_var - 1, axis=-1)
    return 0.5 * (trace + quadratic) - log_det(q)


def _kl_laplace(q: Laplace, p: Laplace) -> Float[Array, "*batch"]:
    distance, log_ratio = jnp.abs(q.mean - p.mean), q.log_scale - p.log_scale
    spread = jnp.exp(log_ratio - distance / q.scale)
    return jnp.sum(spread + distance / p.scale - 1 - log_ratio, axis=-1)


def _kl_gamma(q: Gamma, p: Gamma) -> Float[Array, "*batch"]:
    a, b = jnp.exp(q.log_concentration), jnp.exp(p.log_concentration)
    log_ratio = q.log_rate - p.log_rate
    return jnp.sum((a - b) * digamma(a) - gammaln(a) + gammaln(b) + b * log_ratio + a * jnp.expm1(-log_ratio), -1)


def _kl_dirichlet(q: Dirichlet, p: Dirichlet) -> Float[Array, "*batch"]:
    a, b = jnp.exp(q.log_concentration), jnp.exp(p.log_concentration)
    normalizer = gammaln(jnp.sum(a, -1)) - gammaln(jnp.sum(b, -1)) + jnp.sum(gammaln(b) - gammaln(a), -1)
    return normalizer + jnp.sum((a - b) * (digamma(a) - digamma(jnp.sum(a, -1, keepdims=True))), -1)


def _kl_beta(q: Beta, p: Beta) -> Float[Array, "*batch"]:
    pairs = lambda d: Dirichlet(jnp.stack(jnp.broadcast_arrays(d.log_alpha, d.log_beta), axis=-1))
    return jnp.sum(_kl_dirichlet(pairs(q), pairs(p)), axis=-1)


def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Float[Array, "*batch"]:
    # The log-odds times the mean plus the log of P(0) is finite for every finite logit, unlike p log(p / q).
    log_zero = jax.nn.log_sigmoid(-q.logits) - jax.nn.log_sigmoid(-p.logits)
    return jnp.sum(q.mean * (q.logits - p.logits) + log_zero, axis=-1)


def _kl_categorical(q: Categorical, p: Categorical) -> Float[Array, "*batch"]:
    return jnp.sum(q.mean * (jax.nn.log_softmax(q.logits) - jax.nn.log_softmax(p.logits)), axis=(-2, -1))


_KL = {
    (Normal, Normal): _kl_normal,
    (MultivariateNormal, Normal): _kl_multivariate_normal,
    (Laplace, Laplace): _kl_laplace,
    (Gamma, Gamma): _kl_gamma,
    (Beta, Beta): _kl_beta,
    (Dirichlet, Dirichlet): _kl_dirichlet,
    (Bernoulli, Bernoulli): _kl_bernoulli,
    (Categorical, Categorical): _kl_categorical,
}
