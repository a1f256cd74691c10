"""Densities and divergences by their textbook formulas, in 60-digit arithmetic.

Each function takes the parameters of a one-dimensional member of a family, as lists of the family's fields, and a
sample. Vectors (Dirichlet, Categorical, ExpConcrete) are lists of numbers.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60
exp, log, log1p, digamma, lgamma = mp.exp, mp.log, mp.log1p, mp.digamma, mp.loggamma


def normal(mean, log_var, z):
    return -((z - mean) ** 2) / exp(log_var) / 2 - log_var / 2 - log(2 * mp.pi) / 2


def low_rank_normal(log_var, factor, z):
    """The mean is 0; `factor` has a row for each number of log_var."""
    with mp.workdps(240):  # the determinant cancels
        covariance, z = _covariance(log_var, factor), mp.matrix(z)
        quadratic = (z.T * mp.lu_solve(covariance, z))[0]
        return -(quadratic + log(mp.det(covariance)) + len(z) * log(2 * mp.pi)) / 2


def laplace(mean, log_scale, z):
    return -abs(z - mean) / exp(log_scale) - log_scale - log(2)


def student_t(mean, log_scale, log_df, z):
    df, t = exp(log_df), (z - mean) / exp(log_scale)
    return lgamma((df + 1) / 2) - lgamma(df / 2) - log(df * mp.pi) / 2 - log_scale - (df + 1) / 2 * log1p(t**2 / df)


def gamma(log_a, log_rate, z):
    a = exp(log_a)
    return a * log_rate + (a - 1) * log(z) - exp(log_rate) * z - lgamma(a)


def dirichlet(*numbers):
    """The density at z / sum z: the sum of float32 parts is not 1."""
    log_a, z = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    a = [exp(each) for each in log_a]
    return lgamma(sum(a)) + sum((a - 1) * log(part / sum(z)) - lgamma(a) for a, part in zip(a, z, strict=True))


def beta(log_alpha, log_beta, z):
    return dirichlet(log_alpha, log_beta, z, 1 - z)


def bernoulli(logit, z):
    logit = _finite(logit)
    return -log1p(exp(-logit if z == 1 else logit))


def categorical(*numbers):
    """A class with the logit -inf is left out."""
    logits, z = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    total = log(sum(exp(logit) for logit in logits))
    return sum(z * (logit - total) for logit, z in zip(logits, z, strict=True) if logit != -mp.inf)


def binary_concrete(logit, z):
    temperature = mp.mpf(0.5)
    x = temperature * z - logit
    return -x - 2 * log1p(exp(-x)) + log(temperature)


def exp_concrete(*numbers):
    n, temperature = len(numbers) // 2, mp.mpf(0.5)
    x = [logit - temperature * z for logit, z in zip(numbers[:n], numbers[n:], strict=True)]
    return lgamma(n) + (n - 1) * log(temperature) + sum(x) - n * log(sum(exp(each) for each in x))


def discretized_logistic(mean, log_scale, x, levels=256):
    half = mp.mpf(0.5) / (levels - 1)
    below = lambda x, sign: 1 / (1 + exp(-sign * (x - mean) / exp(log_scale)))
    if x == 0:
        return log(below(half, 1))
    if x == 1:
        return log(below(1 - half, -1))
    sign = 1 if x < mean else -1  # the tail that is small is the one that has all its digits
    return log(abs(below(x + half, sign) - below(x - half, sign)))


def kl_normal(mean, log_var, mean_p, log_var_p):
    ratio = exp(log_var - log_var_p)
    return ((mean - mean_p) ** 2 / exp(log_var_p) + ratio - 1 - log(ratio)) / 2


def kl_low_rank_normal(log_var, factor, log_var_p):
    """Both means are 0."""
    with mp.workdps(240):
        covariance = _covariance(log_var, factor)
        ratios = sum(covariance[i, i] / exp(each) - 1 + each for i, each in enumerate(log_var_p))
        return (ratios - log(mp.det(covariance))) / 2


def _covariance(log_var, factor):
    return mp.diag([exp(each) for each in log_var]) + mp.matrix(factor) * mp.matrix(factor).T


def kl_laplace(mean, log_scale, mean_p, log_scale_p):
    scale, scale_p, distance = exp(log_scale), exp(log_scale_p), abs(mean - mean_p)
    return scale / scale_p * exp(-distance / scale) + distance / scale_p - 1 - log(scale / scale_p)


def kl_gamma(log_a, log_rate, log_b, log_rate_p):
    a, b = exp(log_a), exp(log_b)
    log_ratio = log_rate - log_rate_p
    return (a - b) * digamma(a) - lgamma(a) + lgamma(b) + b * log_ratio + a * mp.expm1(-log_ratio)


def kl_dirichlet(*numbers):
    a, b = ([exp(each) for each in half] for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]))
    difference = sum((a_i - b_i) * (digamma(a_i) - digamma(sum(a))) for a_i, b_i in zip(a, b, strict=True))
    return difference + lgamma(sum(a)) - lgamma(sum(b)) + sum(map(lgamma, b)) - sum(map(lgamma, a))


def kl_bernoulli(logit, logit_p):
    return kl_categorical(_finite(logit), mp.mpf(0), logit_p, mp.mpf(0))


def _finite(logit):
    return logit if mp.isfinite(logit) else mp.sign(logit) * mp.mpf(10) ** 40


def kl_categorical(*numbers):
    """Classes that are impossible under q add nothing."""
    n = len(numbers) // 2
    total, total_p = (log(sum(exp(logit) for logit in logits)) for logits in (numbers[:n], numbers[n:]))
    terms = [(q - total, p - total_p) for q, p in zip(numbers[:n], numbers[n:], strict=True) if q != -mp.inf]
    return sum(exp(q) * (q - p) for q, p in terms)


def log_gamma_slope(log_a, log_z):
    """d log z / d log a at a fixed value of the distribution function of Gamma(a, 1)."""
    a, z = exp(log_a), exp(log_z)
    if log_z < -60:  # the distribution function is z^a / Gamma(1 + a), up to a factor 1 + O(z)
        return digamma(1 + a) - log_z
    cdf = lambda log_a: mp.gammainc(exp(log_a), 0, z, regularized=True)
    density_of_log_z = exp(a * log_z - z - lgamma(a))
    return -mp.diff(cdf, log_a, h=mp.mpf(10) ** -20) / density_of_log_z


def value_and_gradient(function, row):
    """The function at a row of numbers, and its derivative in each finite one; zero in an infinite one."""
    row = [mp.mpf(float(number)) for number in row]
    partial = lambda i: lambda x: function(*row[:i], x, *row[i + 1 :])
    gradient = [mp.diff(partial(i), x, h=mp.mpf(10) ** -90) if mp.isfinite(x) else 0 for i, x in enumerate(row)]
    return float(function(*row)), np.array([float(each) for each in gradient])
