"""Special functions of the logs of concentrations and degrees of freedom, which stay accurate in float32.

Textbook densities subtract log-gammas of size x log x from each other, and float32 keeps nothing of the difference at
x = e^12. The functions below are the small parts that remain when the large ones cancel on paper (Loader 2000, "Fast
and accurate computation of binomial probabilities"). The functions and their derivatives are accurate for logs from -80
to 80.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.polynomial import Chebyshev, Polynomial

Numbers = Float[Array | np.ndarray, "*#shape"]

HALF_LOG_2PI = 0.9189385332046727

# Coefficients of x^-1, x^-3, ... in the asymptotic series of stirling_error.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_LARGE = math.log(5)
# Coefficients of r^2, r^3, ... in exp(r) - 1 - r.
_EXPONENTIAL = tuple(1 / math.factorial(n) for n in range(2, 15))


def _fit_log1p(degree: int) -> tuple[float, ...]:
    """The coefficients of the polynomial that equals log(1 + u) / u at the Chebyshev points of [0, 1].

    Its error is below 6^-degree: a polynomial takes fewer operations than a division and a series.
    """
    fit = Chebyshev.interpolate(lambda u: np.log1p(u) / u, degree, domain=[0, 1])
    return tuple(fit.convert(kind=Polynomial).coef.tolist())


_LOG1P_FLOAT32 = _fit_log1p(9)
_LOG1P_FLOAT64 = _fit_log1p(20)
# Above this concentration the Wilson-Hilferty approximation is better than the series of jax.
_NEARLY_NORMAL = math.log(1000)


@jax.custom_jvp
def softplus(x: Numbers) -> Float[Array, "*#shape"]:
    """log(1 + e^x), to the last digits also where it is tiny.

    On a CPU, it takes a third of the time of `jax.nn.softplus`, whose log1p is the most expensive part of a Bernoulli
    likelihood.
    """
    small = jnp.exp(-jnp.abs(x))
    series = _LOG1P_FLOAT32 if jnp.finfo(small.dtype).bits <= 32 else _LOG1P_FLOAT64
    return jnp.maximum(x, 0) + small * _polynomial(series, small)


softplus.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))


def stirling_error(log_x: Numbers) -> Float[Array, "*#shape"]:
    """log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2, which falls like 1 / (12 x)."""
    large = log_x > _LARGE
    inverse = jnp.exp(-jnp.where(large, log_x, _LARGE))
    series = inverse * _polynomial(_STIRLING, jnp.square(inverse))
    log_small = jnp.where(large, _LARGE, log_x)
    small = jnp.exp(log_small)
    direct = gammaln(1 + small) - (small + 0.5) * log_small + small - HALF_LOG_2PI
    return jnp.where(large, series, direct)


def digamma_gap(log_x: Numbers) -> Float[Array, "*#shape"]:
    """x (log x - digamma(x)), which falls from 1 at x = 0 to 1/2 at infinity."""
    _, slope = jax.jvp(stirling_error, (log_x,), (jnp.ones_like(log_x),))
    return 0.5 - slope


def deviance(log_a: Numbers, log_ratio: Numbers) -> Float[Array, "*#shape"]:
    """y - a - a log(y / a), which is never negative, for log_ratio = log(y / a)."""
    near = jnp.abs(log_ratio) < 0.5
    r = jnp.where(near, log_ratio, 0.0)
    a = jnp.exp(log_a)
    series = a * jnp.square(r) * _polynomial(_EXPONENTIAL, r)
    return jnp.where(near, series, jnp.exp(log_a + log_ratio) - a - a * log_ratio)


def gamma_kernel(log_a: Numbers, log_scale: Numbers, log_z: Numbers) -> Float[Array, "*#shape"]:
    """-deviance(log_a, log_z + log_scale) - log_z.

    Where a is small, the terms are collected, so that the derivative in z, (a - 1) / z - a scale, keeps both its parts.
    """
    a = jnp.exp(log_a)
    collected = a * (1 + log_scale) + jnp.expm1(log_a) * log_z - jnp.exp(log_a + log_scale + log_z)
    return jnp.where(log_a > _LARGE, -deviance(log_a, log_z + log_scale) - log_z, collected)


def log1p_square(s: Numbers) -> Float[Array, "*#shape"]:
    """log(1 + s^2), also where the square would overflow."""
    large = jnp.abs(s) > 1
    outer = jnp.where(large, jnp.abs(s), 1.0)
    inner = jnp.where(large, 0.0, s)
    return jnp.where(large, 2 * jnp.log(outer) + jnp.log1p(jnp.square(1 / outer)), jnp.log1p(jnp.square(inner)))


@jax.custom_jvp
def student_deviance(log_df: Numbers, t: Numbers) -> Float[Array, "*#shape"]:
    """(df / 2) log(1 + t^2 / df), which goes to t^2 / 2 as df grows."""
    s = t * jnp.exp(-0.5 * log_df)
    near = jnp.abs(s) < 1e-3  # where s^2 may underflow
    limit = 0.5 * jnp.square(jnp.where(near, t, 0.0)) * (1 - 0.5 * jnp.square(s))
    return jnp.where(near, limit, 0.5 * jnp.exp(log_df) * log1p_square(s))


@student_deviance.defjvp
def _student_deviance_jvp(primals, tangents):
    log_df, t = primals
    s = t * jnp.exp(-0.5 * log_df)
    in_log_df = deviance(log_df - math.log(2), -log1p_square(s))
    large = jnp.abs(s) > 1
    outer, inner = jnp.where(large, s, 1.0), jnp.where(large, 0.0, s)
    in_s = jnp.where(large, 1 / (outer + 1 / outer), inner / (1 + jnp.square(inner)))
    in_t = jnp.exp(0.5 * log_df) * in_s
    return student_deviance(log_df, t), in_log_df * tangents[0] + in_t * tangents[1]


def log_positive(z: Numbers) -> Float[Array, "*#shape"]:
    """log z. A z below the smallest normal float counts as that float."""
    tiny = jnp.finfo(z.dtype).tiny
    return jnp.log(jnp.where(z < tiny, tiny, z))


def log_gamma_draws(
    key: PRNGKeyArray, log_concentration: Float[Array | np.ndarray, "*batch"], num_samples: int
) -> Float[Array, "{num_samples} *batch"]:
    """Logs of draws from Gamma(concentration, 1). Their gradient is implicit (arXiv:1805.08498).

    A log-concentration below -80 counts as -80, so that the logs stay finite.
    """
    shape = (num_samples, *log_concentration.shape)
    concentration = jnp.exp(jnp.maximum(log_concentration, -80.0))
    draws = jax.random.loggamma(key, stop_gradient(concentration), shape, log_concentration.dtype)
    return _with_implicit_gradient(draws, jnp.broadcast_to(log_concentration, shape))


@jax.custom_jvp
def differentiable_once(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1, as a function of x whose derivative raises. A derivative that it multiplies has no derivative of its own."""
    return jnp.ones_like(x)


@differentiable_once.defjvp
def _refuse_second_derivative(primals, tangents):
    raise NotImplementedError(
        "only the first derivative of this estimate is right; for second derivatives use the estimator reparam, "
        "reparam_antithetic, reparam_rqmc, gumbel_softmax, eat or exact, and with the first three no family whose "
        "samples have an implicit gradient, such as Gamma"
    )


@jax.custom_jvp
def first_derivative_only(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x, whose first derivative is that of x and whose second derivative raises NotImplementedError.

    The table of estimators applies the function to the value of every estimator that is not `twice_differentiable`.
    """
    return x


@first_derivative_only.defjvp
def _first_derivative_jvp(primals, tangents):
    return first_derivative_only(*primals), tangents[0] * differentiable_once(*primals)


@jax.custom_jvp
def _with_implicit_gradient(log_z, log_a):
    return log_z


@_with_implicit_gradient.defjvp
def _implicit_jvp(primals, tangents):
    """d log z / d log a where the quantile stays the same; three ranges of z and a have formulas of their own.

    A derivative of this would be wrong, because it would hold log z, so it is refused.

    The function lax.random_gamma_grad is wrong where z underflows, and loses its digits as a grows beyond 1000.
    """
    log_z, log_a = primals
    underflow = math.log(jnp.finfo(log_z.dtype).eps)
    a = jnp.exp(jnp.minimum(log_a, _NEARLY_NORMAL))
    z = jnp.exp(jnp.maximum(log_z, underflow))
    general = jax.lax.random_gamma_grad(a, z) * a / z
    # The distribution function is z^a / Gamma(1 + a) near zero.
    near_zero = digamma(1 + a) - log_z
    # The cube root of z / a is nearly normal with mean 1 - 1 / (9 a) and variance 1 / (9 a) (Wilson & Hilferty 1931).
    inverse_root = jnp.exp((log_a - log_z) / 3)
    large = 1 + 1.5 * jnp.expm1((log_a - log_z) / 3) + inverse_root * jnp.exp(-log_a) / 6
    slope = jnp.where(log_a > _NEARLY_NORMAL, large, jnp.where(log_z < underflow, near_zero, general))
    return log_z, slope * tangents[1] * differentiable_once(log_a)


def _polynomial(coefficients: tuple[float, ...], x: Numbers) -> Float[Array, "*#shape"]:
    """The polynomial with these coefficients, that of the lowest power first."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = coefficient + x * value
    return value
