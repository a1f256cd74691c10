"""Two members of each family of distributions, what scipy says of them, and what they say of themselves.

Most of the time is compilation, so everything that a family is asked is one program, whose answers the tests read.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats as st
from scipy.special import expit, gamma

from tests.helpers.random_models import float64
from vae import distributions as dist

BATCH, DIM, CLASSES, LEVELS = 2, 3, 4, 17
LOG_049 = np.full((BATCH, DIM), 2 * np.log(0.7), np.float32)


def draw(seed, *shape, scale=0.4, shift=0.0):
    return np.asarray(shift + scale * np.random.default_rng(seed).normal(size=shape), np.float32)


def _cholesky(seed, scale):
    lower = np.tril(draw(seed, BATCH, DIM, DIM), -1) + scale * np.eye(DIM)
    return np.asarray(lower, np.float32)


# Two members of each family. The second is nearer to the first than its tails are, so that p / q has a finite variance.
MEMBERS = {
    "Normal": (
        dist.Normal(draw(0, BATCH, DIM), draw(1, BATCH, DIM, scale=0.2)),
        dist.Normal(draw(2, BATCH, DIM), draw(3, BATCH, DIM, scale=0.2, shift=-0.5)),
    ),
    "Laplace": (
        dist.Laplace(draw(4, BATCH, DIM), draw(5, BATCH, DIM, scale=0.2)),
        dist.Laplace(draw(6, BATCH, DIM), draw(7, BATCH, DIM, scale=0.2, shift=-0.4)),
    ),
    "StudentT": (
        dist.StudentT(draw(8, BATCH, DIM), draw(9, BATCH, DIM), draw(10, BATCH, DIM, scale=0.2, shift=1.5)),
        dist.StudentT(draw(11, BATCH, DIM), draw(12, BATCH, DIM), draw(13, BATCH, DIM, scale=0.2, shift=2.0)),
    ),
    "MultivariateNormal": (
        dist.MultivariateNormal(draw(14, BATCH, DIM), _cholesky(15, 1.2)),
        dist.MultivariateNormal(draw(16, BATCH, DIM), _cholesky(17, 0.9)),
    ),
    "Gamma": (
        dist.Gamma(draw(18, BATCH, DIM, shift=0.5), draw(19, BATCH, DIM)),
        dist.Gamma(draw(20, BATCH, DIM, shift=0.9), draw(21, BATCH, DIM, shift=0.6)),
    ),
    "Beta": (
        dist.Beta(draw(22, BATCH, DIM, shift=0.3), draw(23, BATCH, DIM, shift=0.1)),
        dist.Beta(draw(24, BATCH, DIM, shift=0.8), draw(25, BATCH, DIM, shift=0.6)),
    ),
    "Dirichlet": (
        dist.Dirichlet(draw(26, BATCH, DIM, shift=0.2)),
        dist.Dirichlet(draw(27, BATCH, DIM, shift=0.7)),
    ),
    "Bernoulli": (
        dist.Bernoulli(draw(28, BATCH, DIM, scale=1, shift=1.5)),
        dist.Bernoulli(draw(29, BATCH, DIM, scale=1)),
    ),
    "Categorical": (
        dist.Categorical(draw(30, BATCH, DIM, CLASSES, scale=0.3)),
        dist.Categorical(draw(31, BATCH, DIM, CLASSES, scale=1.2)),
    ),
    "BinaryConcrete": (
        dist.BinaryConcrete(draw(36, BATCH, DIM), 0.7),
        dist.BinaryConcrete(draw(37, BATCH, DIM), 0.9),
    ),
    "ExpConcrete": (
        dist.ExpConcrete(draw(38, BATCH, DIM, CLASSES), 0.7),
        dist.ExpConcrete(draw(39, BATCH, DIM, CLASSES), 0.9),
    ),
    "DiscretizedLogistic": (
        dist.DiscretizedLogistic(draw(32, BATCH, DIM, scale=0.2, shift=0.5), draw(33, BATCH, DIM, shift=-2), LEVELS),
        dist.DiscretizedLogistic(draw(34, BATCH, DIM, scale=0.1, shift=0.5), draw(35, BATCH, DIM, shift=-2.3), LEVELS),
    ),
}
FAMILIES = sorted(MEMBERS)
REPARAMETERIZABLE = [name for name in FAMILIES if getattr(MEMBERS[name][0], "rsample", None) is not None]
WITH_KL = ["Normal", "MultivariateNormal", "Laplace", "Gamma", "Beta", "Dirichlet", "Bernoulli", "Categorical"]


def frozen(q):
    """The family of scipy that a factorized q is, with q's parameters in float64."""
    leaf = {name: float64(getattr(q, name)) for name in type(q).__dataclass_fields__}
    match type(q).__name__:
        case "Normal":
            return st.norm(leaf["mean"], np.exp(0.5 * leaf["log_var"]))
        case "Laplace":
            return st.laplace(leaf["mean"], np.exp(leaf["log_scale"]))
        case "StudentT":
            return st.t(np.exp(leaf["log_df"]), leaf["mean"], np.exp(leaf["log_scale"]))
        case "Gamma":
            return st.gamma(np.exp(leaf["log_concentration"]), scale=np.exp(-leaf["log_rate"]))
        case "Beta":
            return st.beta(np.exp(leaf["log_alpha"]), np.exp(leaf["log_beta"]))
        case "Bernoulli":
            return st.bernoulli(expit(leaf["logits"]))
        case "BinaryConcrete":
            return st.logistic(leaf["logits"] / q.temperature, 1 / q.temperature)


def scipy_log_prob(q, z):
    """log q(z), `[K, *batch]`, in float64 by scipy."""
    z = float64(z)
    match q:
        case dist.MultivariateNormal():
            covariance = float64(q.cholesky) @ np.swapaxes(float64(q.cholesky), -1, -2)
            columns = [st.multivariate_normal(float64(q.mean[b]), covariance[b]).logpdf(z[:, b]) for b in range(BATCH)]
            return np.stack(columns, axis=1)
        case dist.Dirichlet():
            concentration, z = np.exp(float64(q.log_concentration)), z / z.sum(-1, keepdims=True)
            return np.stack([st.dirichlet(concentration[b]).logpdf(z[:, b].T) for b in range(BATCH)], axis=1)
        case dist.Categorical():
            p = np.exp(float64(q.logits))
            return st.multinomial(1, p / p.sum(-1, keepdims=True)).logpmf(z).sum(-1)
        case dist.DiscretizedLogistic():
            z = np.round(z * (q.levels - 1)) / (q.levels - 1)
            continuous, half = st.logistic(float64(q.mean), np.exp(float64(q.log_scale))), 0.5 / (q.levels - 1)
            upper = np.where(z > 1 - half, 1, continuous.cdf(z + half))
            return np.log(upper - np.where(z < half, 0, continuous.cdf(z - half))).sum(-1)
        case dist.Bernoulli():
            return frozen(q).logpmf(z).sum(-1)
        case dist.ExpConcrete():  # by the density on the simplex, and the change of variables to log ratios
            a, x, t, n = np.exp(float64(q.logits)), np.exp(z), q.temperature, CLASSES
            density = gamma(n) * t ** (n - 1) * np.prod(a * x ** (-t - 1), -1) / np.sum(a * x**-t, -1) ** n
            return np.log(density * np.prod(x, -1)).sum(-1)
    return frozen(q).logpdf(z).sum(-1)


@functools.cache
def ask(name):
    """z ~ q `[K, B, ...]`, log q(z), log p(z), and the KLs, in one program and under strict promotion of dtypes."""

    def program(q, p, key):
        z = q.sample(key, 40_000)
        out = {"z": z, "q": q.log_prob(z), "p": p.log_prob(z)}
        if name in WITH_KL:
            out["kl"], out["to itself"] = dist.kl(q, prior(p)), jax.value_and_grad(to_itself)(q)
            out["one prior"] = dist.kl(q, prior(jax.tree.map(lambda leaf: leaf[0], p)))
            if name != "MultivariateNormal":
                out["reverse"] = dist.kl(p, q)
        return out

    prior, to_itself = lambda p: p, lambda q: jnp.sum(dist.kl(q, jax.lax.stop_gradient(q)))
    if name == "MultivariateNormal":  # has a closed form against a diagonal Normal
        prior = lambda p: dist.Normal(p.mean, jnp.full_like(p.mean, -0.2))
        diagonal = lambda mean: dist.MultivariateNormal(mean, jnp.broadcast_to(0.7 * jnp.eye(DIM), (BATCH, DIM, DIM)))
        to_itself = lambda q: jnp.sum(dist.kl(diagonal(q.mean), dist.Normal(jax.lax.stop_gradient(q.mean), LOG_049)))
    with jax.numpy_dtype_promotion("strict"):
        return jax.device_get(jax.jit(program)(*MEMBERS[name], jax.random.key(1)))


def z_score(draws, truth):
    """Standard errors between the mean of `draws` over axis 0 and the truth, and that standard error."""
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return np.abs(draws.mean(axis=0) - truth) / error, error
