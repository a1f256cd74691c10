"""The linear-Gaussian VAE (Lucas et al. 2019, arXiv:1911.02469) as a `vae.models.VAE`, and all about it that is exact.

    z ~ N(0, I_L),  x ~ N(W z + mu, s^2 I_D),  q(z|x) = N(A x + a, diag(sigma^2))

The closed forms are computed in float64 NumPy, without the code that they check. `params` are the
model's flax variables everywhere: A, a, log sigma under "encoder", W, mu, log s^2 under "decoder".
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae import distributions as dist
from vae import models


class LinearEncoder(nn.Module):
    """x `[B, ...]` to N(A x + a, diag(sigma^2)); sigma is the same for every x."""

    latent_dim: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        weight = self.param("weight", nn.initializers.normal(0.1), (self.latent_dim, x.shape[-1]))
        offset = self.param("offset", nn.initializers.zeros, (self.latent_dim,))
        log_scale = self.param("log_scale", nn.initializers.zeros, (self.latent_dim,))
        mean = x @ weight.T + offset
        return dist.Normal(mean, jnp.broadcast_to(2 * log_scale, mean.shape))


class LinearDecoder(nn.Module):
    """z `[K, B, L]` to N(W z + mu, s^2 I)."""

    data_dim: int

    @nn.compact
    def __call__(self, z):
        weight = self.param("weight", nn.initializers.normal(0.1), (self.data_dim, z.shape[-1]))
        offset = self.param("offset", nn.initializers.zeros, (self.data_dim,))
        log_var = self.param("log_var", nn.initializers.zeros, ())
        mean = z @ weight.T + offset
        return dist.Normal(mean, jnp.broadcast_to(log_var, mean.shape))


def make(data_dim: int, latent_dim: int) -> models.VAE:
    return models.VAE(LinearEncoder(latent_dim), LinearDecoder(data_dim), models.Prior(latent_dim))


def example(seed: int = 0, data_dim: int = 4, latent_dim: int = 2, batch: int = 3):
    """Model, params and x `[batch, data_dim, 1, 1]`: W with orthogonal columns, a posterior that is wrong in all."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(data_dim, latent_dim)))[0]
    params = {
        "encoder": {
            "weight": 0.3 * rng.normal(size=(latent_dim, data_dim)),
            "offset": 0.5 * rng.normal(size=latent_dim),
            "log_scale": -0.3 + 0.2 * rng.normal(size=latent_dim),
        },
        "decoder": {
            "weight": basis * np.linspace(0.7, 1.3, latent_dim),
            "offset": 0.5 * rng.normal(size=data_dim),
            "log_var": np.log(0.5),
        },
    }
    x = rng.normal(size=(batch, data_dim, 1, 1))
    return make(data_dim, latent_dim), _variables(params), jnp.asarray(x, jnp.float32)


def posterior(params, x):
    """Mean `[B, L]` and covariance `[L, L]` of p(z|x)."""
    _, decoder, x = _numbers(params, x)
    w, var = decoder["weight"], np.exp(decoder["log_var"])
    covariance = np.linalg.inv(np.eye(w.shape[1]) + w.T @ w / var)
    return (x - decoder["offset"]) @ w @ covariance / var, covariance


def with_exact_posterior(params):
    """The same generative model, and as q its posterior.

    Raises:
      ValueError: where W^T W is not diagonal, so that no diagonal q is the posterior.
    """
    _, decoder, _ = _numbers(params, np.zeros((1, 1)))
    w, var = decoder["weight"], np.exp(decoder["log_var"])
    covariance = np.linalg.inv(np.eye(w.shape[1]) + w.T @ w / var)
    if not np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6):
        raise ValueError("the posterior is not diagonal: the columns of W must be orthogonal")
    weight = covariance @ w.T / var
    encoder = {
        "weight": weight,
        "offset": -weight @ decoder["offset"],
        "log_scale": 0.5 * np.log(np.diag(covariance)),
    }
    return _variables({"encoder": encoder, "decoder": decoder})


def log_marginal(params, x):
    """log p(x), `[B]` nats."""
    _, decoder, x = _numbers(params, x)
    w, centred = decoder["weight"], x - decoder["offset"]
    covariance = w @ w.T + np.exp(decoder["log_var"]) * np.eye(len(w))
    mahalanobis = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=-1)
    return -0.5 * (len(w) * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + mahalanobis)


def rate(params, x):
    """KL(q(z|x) || p(z)) of each latent dimension, `[B, L]` nats."""
    encoder, _, x = _numbers(params, x)
    mean, var = x @ encoder["weight"].T + encoder["offset"], np.exp(2 * encoder["log_scale"])
    return 0.5 * (var + mean**2 - 1 - np.log(var))


def distortion(params, x):
    """-E_q log p(x|z), `[B]` nats."""
    _, decoder, _ = _numbers(params, x)
    _, residual, spread, var = _residual(params, x)
    return 0.5 * (len(decoder["offset"]) * np.log(2 * np.pi * var) + (np.sum(residual**2, -1) + spread.sum()) / var)


def elbo(params, x):
    """`[B]` nats."""
    return -(distortion(params, x) + rate(params, x).sum(-1))


def elbo_gradients(params, x, beta: float = 1.0):
    """d elbo / d params of each datum, its KL times beta: `params`, every leaf with a leading `[B]`."""
    encoder, decoder, flat = _numbers(params, x)
    mean, residual, spread, var = _residual(params, x)
    w, v = decoder["weight"], np.exp(2 * encoder["log_scale"])
    d_mean = residual @ w / var - beta * mean
    d_log_scale = beta - v * (beta + np.sum(w**2, axis=0) / var)
    d_weight = (residual[:, :, None] * mean[:, None, :] - w * v) / var
    d_log_var = -0.5 * len(w) + 0.5 * (np.sum(residual**2, axis=-1) + spread.sum()) / var
    return {
        "params": {
            "encoder": {
                "weight": d_mean[:, :, None] * flat[:, None, :],
                "offset": d_mean,
                "log_scale": np.broadcast_to(d_log_scale, mean.shape),
            },
            "decoder": {"weight": d_weight, "offset": residual / var, "log_var": d_log_var},
        }
    }


def optimum(data, latent_dim: int) -> float:
    """The largest mean log p(x) of any such model, nats: probabilistic PCA (Tipping & Bishop 1999)."""
    data = np.asarray(data, np.float64).reshape(len(data), -1)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(data.T, bias=True)))[::-1]
    kept, noise = eigenvalues[:latent_dim], eigenvalues[latent_dim:].mean()
    dim = len(eigenvalues)
    return -0.5 * (dim * np.log(2 * np.pi) + np.log(kept).sum() + (dim - latent_dim) * np.log(noise) + dim)


def _residual(params, x):
    """q's mean, x - mu - W mean, the variances that q adds to W z (one a latent), and s^2."""
    encoder, decoder, x = _numbers(params, x)
    mean = x @ encoder["weight"].T + encoder["offset"]
    spread = np.sum(decoder["weight"] ** 2, axis=0) * np.exp(2 * encoder["log_scale"])
    return mean, x - decoder["offset"] - mean @ decoder["weight"].T, spread, np.exp(decoder["log_var"])


def _numbers(params, x):
    as_float64 = lambda tree: {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return as_float64(params["params"]["encoder"]), as_float64(params["params"]["decoder"]), x


def _variables(params):
    return {"params": jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)}
