"""Families of distributions as pytrees: parameters in, samples and log-densities out.

Shapes: parameters `[*batch, D]`, samples `[K, *batch, D]`, log-densities summed over the event `[K, *batch]`, in nats.
Because a family is a pytree, `jax.lax.stop_gradient(q)`, `jax.vmap` and `jax.tree.map` work on it as on an array.

`sample` never carries a gradient. `rsample` always does; only reparameterizable families have it. Families whose noise
has a fixed distribution also have `from_noise`, the map from that noise to the sample: the reparameterization trick.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.scipy import stats
from jax.scipy.special import digamma, gammaln, xlogy

_LOG_2PI = 1.8378770664093453
family = lambda cls: jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


def uniform(key: Array, shape: tuple[int, ...], dtype) -> Array:
    """Uniform on the middles of a float's 2^-23 (2^-52) wide cells of [0, 1]: never 0 or 1, and 1 - u is exact. What is
    less probable than half a cell does not happen; on the cells' edges it would, far too often."""
    return jax.random.uniform(key, shape, dtype) + jnp.finfo(dtype).eps / 2


def logistic(key: Array, shape: tuple[int, ...], dtype) -> Array:
    """Standard logistic, of `uniform`. jax.random.logistic draws -87 with probability 2^-23, that of all below -16: a
    relaxed bit that is rarer would be seen far too often, and its importance weight with it."""
    u = uniform(key, shape, dtype)
    return jnp.log(u) - jnp.log1p(-u)


class _Reparameterizable:
    """What every family with an `rsample` shares: a sample is one whose gradient is stopped."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jax.tree.leaves(self)[0].shape[:-1]

    def sample(self, key: Array, num_samples: int) -> Array:
        return stop_gradient(self.rsample(key, num_samples))


class _LocationScale(_Reparameterizable):
    """z = mean + scale * eps, with eps from `noise`, whose distribution does not depend on the parameters."""

    def from_noise(self, eps: Array) -> Array:
        """The reparameterization trick: eps `[K, *batch, D]` to z, through which gradients reach the parameters."""
        return self.mean + self.scale * eps

    def rsample(self, key: Array, num_samples: int) -> Array:
        return self.from_noise(self.noise(key, (num_samples, *self.mean.shape), self.mean.dtype))


@family
class Normal(_LocationScale):
    """Diagonal Gaussian by mean and log-variance, both `[*batch, D]`: the two outputs of a VAE's encoder."""

    mean: Array
    log_var: Array
    noise = staticmethod(jax.random.normal)

    @property
    def scale(self) -> Array:
        return jnp.exp(0.5 * self.log_var)

    def log_prob(self, z: Array) -> Array:
        # exp(-log_var / 2) before squaring: the variance itself would overflow at half the exponent.
        standardized = (z - self.mean) * jnp.exp(-0.5 * self.log_var)
        return -0.5 * jnp.sum(jnp.square(standardized) + self.log_var + _LOG_2PI, axis=-1)


@family
class Laplace(_LocationScale):
    """Factorized Laplace by location and log of the scale b (variance 2 b^2), both `[*batch, D]`."""

    mean: Array
    log_scale: Array
    noise = staticmethod(jax.random.laplace)

    @property
    def scale(self) -> Array:
        return jnp.exp(self.log_scale)

    def log_prob(self, z: Array) -> Array:
        return jnp.sum(stats.laplace.logpdf(z, self.mean, self.scale), axis=-1)


@family
class StudentT(_LocationScale):
    """Factorized Student t by location, log-scale and log of the degrees of freedom, all `[*batch, D]`.

    The degrees of freedom get their gradient by implicit differentiation of the Gamma sampler inside `jax.random.t`
    (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498).
    """

    mean: Array
    log_scale: Array
    log_df: Array

    @property
    def scale(self) -> Array:
        return jnp.exp(self.log_scale)

    def noise(self, key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.t(key, jnp.exp(self.log_df), shape, dtype)

    def log_prob(self, z: Array) -> Array:
        return jnp.sum(stats.t.logpdf(z, jnp.exp(self.log_df), self.mean, self.scale), axis=-1)


@family
class MultivariateNormal(_LocationScale):
    """Full-covariance Gaussian: mean `[*batch, D]` and lower Cholesky factor `cholesky [*batch, D, D]`."""

    mean: Array
    cholesky: Array
    noise = staticmethod(jax.random.normal)

    def from_noise(self, eps: Array) -> Array:
        """z = mean + L eps, for standard normal eps `[K, *batch, D]`."""
        # Of a rounded factor, which accelerators would take, the density would be another.
        precision = jax.lax.Precision.HIGHEST
        return self.mean + jnp.einsum("...ij,...j->...i", self.cholesky, eps, precision=precision)

    def log_prob(self, z: Array) -> Array:
        centred = (z - self.mean)[..., None]
        factor = jnp.broadcast_to(self.cholesky, (*centred.shape[:-2], *self.cholesky.shape[-2:]))
        standardized = jax.lax.linalg.triangular_solve(factor, centred, left_side=True, lower=True)[..., 0]
        return -0.5 * jnp.sum(jnp.square(standardized) + _LOG_2PI, axis=-1) - _log_det(self)


@family
class Gamma(_Reparameterizable):
    """Factorized Gamma by the logs of concentration and rate, both `[*batch, D]`; mean = concentration / rate.

    Reparameterized implicitly (arXiv:1805.08498). Samples are kept above the smallest normal float, where a small
    concentration would underflow to a zero that has no logarithm. Of a concentration below about 0.05 more than a
    hundredth of the mass lies there, and a Monte Carlo bound is too high.
    """

    log_concentration: Array
    log_rate: Array

    @property
    def mean(self) -> Array:
        return jnp.exp(self.log_concentration - self.log_rate)

    def rsample(self, key: Array, num_samples: int) -> Array:
        shape = (num_samples, *self.log_rate.shape)
        log_draw = jax.random.loggamma(key, jnp.exp(self.log_concentration), shape, self.log_rate.dtype)
        return jnp.maximum(jnp.exp(log_draw - self.log_rate), jnp.finfo(log_draw.dtype).tiny)

    def log_prob(self, z: Array) -> Array:
        return jnp.sum(stats.gamma.logpdf(z, jnp.exp(self.log_concentration), scale=jnp.exp(-self.log_rate)), axis=-1)


@family
class Beta(_Reparameterizable):
    """Factorized Beta by the logs of its two concentrations, both `[*batch, D]`; reparameterized implicitly.

    Samples reach down to the smallest normal float, but up to 1 - 6e-8 alone, the last float32 before 1: where beta is
    below about 0.3 a part of the mass lies beyond, and a Monte Carlo bound is too high.
    """

    log_alpha: Array
    log_beta: Array

    @property
    def mean(self) -> Array:
        return jax.nn.sigmoid(self.log_alpha - self.log_beta)

    def rsample(self, key: Array, num_samples: int) -> Array:
        log_concentrations = jnp.stack([self.log_alpha, self.log_beta], axis=-1)
        z = Dirichlet(log_concentrations).rsample(key, num_samples)[..., 0]
        return jnp.minimum(z, 1 - jnp.finfo(z.dtype).epsneg)

    def log_prob(self, z: Array) -> Array:
        return jnp.sum(stats.beta.logpdf(z, jnp.exp(self.log_alpha), jnp.exp(self.log_beta)), axis=-1)


@family
class Dirichlet(_Reparameterizable):
    """Dirichlet over D parts by the logs of its concentrations `[*batch, D]`; reparameterized implicitly. Its samples
    are kept above the smallest normal float, as Gamma's are."""

    log_concentration: Array

    @property
    def mean(self) -> Array:
        return jax.nn.softmax(self.log_concentration, axis=-1)

    def rsample(self, key: Array, num_samples: int) -> Array:
        shape = (num_samples, *self.log_concentration.shape)
        log_draw = jax.random.loggamma(key, jnp.exp(self.log_concentration), shape, self.log_concentration.dtype)
        return jnp.maximum(jax.nn.softmax(log_draw, axis=-1), jnp.finfo(log_draw.dtype).tiny)

    def log_prob(self, z: Array) -> Array:
        concentration = jnp.exp(self.log_concentration)
        return jnp.sum(xlogy(concentration - 1, z) - gammaln(concentration), -1) + gammaln(jnp.sum(concentration, -1))


@family
class Bernoulli:
    """Factorized Bernoulli by its logits `[*batch, D]`; samples are 0. or 1."""

    logits: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    @property
    def mean(self) -> Array:
        return jax.nn.sigmoid(self.logits)

    def threshold(self, u: Array) -> Array:
        """1 where u < sigmoid(logits), else 0: a sample, for uniform u `[K, *batch, D]`."""
        return (u < self.mean).astype(self.logits.dtype)

    def sample(self, key: Array, num_samples: int) -> Array:
        return self.threshold(uniform(key, (num_samples, *self.logits.shape), self.logits.dtype))

    def log_prob(self, z: Array) -> Array:
        # Finite for every finite logit, and no slower than a derivative written by hand.
        return jnp.sum(z * self.logits - jax.nn.softplus(self.logits), axis=-1)


class _OfClasses:
    """What families by logits `[*batch, D, C]` share; `mean` is the probability of each class."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-2]

    @property
    def mean(self) -> Array:
        return jax.nn.softmax(self.logits, axis=-1)


@family
class Categorical(_OfClasses):
    """D independent categorical variables of C classes by logits `[*batch, D, C]`; samples are one-hot."""

    logits: Array

    def sample(self, key: Array, num_samples: int) -> Array:
        if self.logits.shape[-1] == 2:  # bits, which need one uniform number and no logarithm
            first = Bernoulli(self.logits[..., 0] - self.logits[..., 1]).sample(key, num_samples)
            return jnp.stack([first, 1 - first], axis=-1)
        index = jax.random.categorical(key, self.logits, shape=(num_samples, *self.logits.shape[:-1]))
        return jax.nn.one_hot(index, self.logits.shape[-1], dtype=self.logits.dtype)

    def log_prob(self, z: Array) -> Array:
        return jnp.sum(z * jax.nn.log_softmax(self.logits, axis=-1), axis=(-2, -1))


@family
class BinaryConcrete(_LocationScale):
    """The binary Concrete distribution of a relaxed bit, by the bit's logits `[*batch, D]` and a temperature (Maddison,
    Mnih & Teh 2016, arXiv:1611.00712).

    Samples are the *logits* of the relaxed bit, a logistic variable: the relaxed bit itself rounds to 0 or 1, where its
    density is infinite. Networks read `sigmoid(z)`.
    """

    logits: Array
    temperature: float = field(default=2 / 3, metadata={"static": True})
    noise = staticmethod(logistic)

    @property
    def mean(self) -> Array:
        """P(z > 0), that of the bit."""
        return jax.nn.sigmoid(self.logits)

    def from_noise(self, eps: Array) -> Array:
        """z = (logits + eps) / temperature, for standard logistic eps `[K, *batch, D]`."""
        return (self.logits + eps) / self.temperature

    def log_prob(self, z: Array) -> Array:
        location, scale = self.logits / self.temperature, 1 / self.temperature
        return jnp.sum(stats.logistic.logpdf(z, location, scale), axis=-1)


@family
class ExpConcrete(_OfClasses, _Reparameterizable):
    """The Concrete distribution of D relaxed one-hot variables of C classes, by logits `[*batch, D, C]` and a
    temperature (Maddison, Mnih & Teh 2016, arXiv:1611.00712, appendix C.3).

    Samples are the *logarithms* of the relaxed variable, which itself rounds to 0 and 1. Networks read `exp(z)`. `mean`
    is the probability that a class is the largest, that of the one-hot variable.
    """

    logits: Array
    temperature: float = field(default=2 / 3, metadata={"static": True})

    def from_noise(self, eps: Array) -> Array:
        """z = log softmax((logits + eps) / temperature), for standard Gumbel eps `[K, *batch, D, C]`."""
        return jax.nn.log_softmax((self.logits + eps) / self.temperature, axis=-1)

    def rsample(self, key: Array, num_samples: int) -> Array:
        # Gumbel's own lowest cell, 2^-23 at -4.5, makes tails e^4.5 times as likely: E[p/q] moves by 1e-5.
        return self.from_noise(jax.random.gumbel(key, (num_samples, *self.logits.shape), self.logits.dtype))

    def log_prob(self, z: Array) -> Array:
        """With respect to the log ratios of all classes to the last: the differences of z's coordinates."""
        classes = self.logits.shape[-1]
        x = self.logits - self.temperature * z
        constant = math.lgamma(classes) + (classes - 1) * math.log(self.temperature)
        return jnp.sum(constant + jnp.sum(x, -1) - classes * jax.nn.logsumexp(x, -1), axis=-1)


@family
class DiscretizedLogistic(_Reparameterizable):
    """Logistic over pixels in [0, 1], integrated over the bin of each of `levels` grey levels; a probability mass.

    Mean and log-scale are `[*batch, D]` (Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017, arXiv:1701.05517).
    The first and the last bin take the tails. Samples are of the continuous logistic, rounded to a level, no gradient.
    """

    mean: Array
    log_scale: Array
    levels: int = field(default=256, metadata={"static": True})
    rsample = None

    def sample(self, key: Array, num_samples: int) -> Array:
        eps = logistic(key, (num_samples, *self.mean.shape), self.mean.dtype)
        bins = self.levels - 1
        return stop_gradient(jnp.round(jnp.clip(self.mean + jnp.exp(self.log_scale) * eps, 0, 1) * bins) / bins)

    def log_prob(self, x: Array) -> Array:
        half, inverse = 0.5 / (self.levels - 1), jnp.exp(-self.log_scale)
        upper, lower = (x + half - self.mean) * inverse, (x - half - self.mean) * inverse
        below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)): no cancellation in the far tails.
        inside = below + above + jnp.log(-jnp.expm1(-2 * half * inverse))
        return jnp.sum(jnp.where(x < half, below, jnp.where(x > 1 - half, above, inside)), axis=-1)


def kl(q, p) -> Array:
    """KL(q || p) in nats, `[*batch]`, in closed form.

    Raises:
      NotImplementedError: where this pair has none here; the Monte Carlo bound `objectives.elbo` needs none.
    """
    try:
        formula = _KL[type(q), type(p)]
    except KeyError:
        raise NotImplementedError(
            f"no closed form of KL({type(q).__name__} || {type(p).__name__}); "
            f"use the Monte Carlo bound (objective elbo), which needs none"
        ) from None
    return formula(q, p)


def _kl_normal(q: Normal, p: Normal) -> Array:
    log_ratio = q.log_var - p.log_var
    return 0.5 * jnp.sum(jnp.square(q.mean - p.mean) * jnp.exp(-p.log_var) + jnp.exp(log_ratio) - 1 - log_ratio, -1)


def _kl_multivariate_normal(q: MultivariateNormal, p: Normal) -> Array:
    precision = jnp.exp(-p.log_var)
    trace = jnp.sum(jnp.square(q.cholesky) * precision[..., None], axis=(-2, -1))
    quadratic = jnp.sum(jnp.square(q.mean - p.mean) * precision + p.log_var - 1, axis=-1)
    return 0.5 * (trace + quadratic) - _log_det(q)


def _kl_laplace(q: Laplace, p: Laplace) -> Array:
    distance, log_ratio = jnp.abs(q.mean - p.mean), q.log_scale - p.log_scale
    spread = jnp.exp(log_ratio - distance / q.scale)
    return jnp.sum(spread + distance / p.scale - 1 - log_ratio, axis=-1)


def _kl_gamma(q: Gamma, p: Gamma) -> Array:
    a, b = jnp.exp(q.log_concentration), jnp.exp(p.log_concentration)
    log_ratio = q.log_rate - p.log_rate
    return jnp.sum((a - b) * digamma(a) - gammaln(a) + gammaln(b) + b * log_ratio + a * jnp.expm1(-log_ratio), -1)


def _kl_dirichlet(q: Dirichlet, p: Dirichlet) -> Array:
    a, b = jnp.exp(q.log_concentration), jnp.exp(p.log_concentration)
    normalizer = gammaln(jnp.sum(a, -1)) - gammaln(jnp.sum(b, -1)) + jnp.sum(gammaln(b) - gammaln(a), -1)
    return normalizer + jnp.sum((a - b) * (digamma(a) - digamma(jnp.sum(a, -1, keepdims=True))), -1)


def _kl_beta(q: Beta, p: Beta) -> Array:
    pairs = lambda d: Dirichlet(jnp.stack(jnp.broadcast_arrays(d.log_alpha, d.log_beta), axis=-1))
    return jnp.sum(_kl_dirichlet(pairs(q), pairs(p)), axis=-1)


def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Array:
    # log-odds times the mean plus the log of P(0): finite for every finite logit, unlike p log(p / q).
    log_zero = jax.nn.log_sigmoid(-q.logits) - jax.nn.log_sigmoid(-p.logits)
    return jnp.sum(q.mean * (q.logits - p.logits) + log_zero, axis=-1)


def _kl_categorical(q: Categorical, p: Categorical) -> Array:
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


def _log_det(q: MultivariateNormal) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(q.cholesky, axis1=-2, axis2=-1)), axis=-1)
