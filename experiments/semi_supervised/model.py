"""The model M2 (Kingma, Rezende, Mohamed & Welling 2014, arXiv:1406.5298), and its bound.

p(x, y, z) = p(y) p(z) p(x|y, z) has a class y, ten fair sides, and a standard normal z, the style.
q(y, z|x) = q(y|x) q(z|x, y) is a chain of two blocks, and each block has a gradient estimator of its own.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae import distributions, estimators, models
from vae.estimators import Expect
from vae.hierarchy import Markov
from vae.models.product import ReadBlocks

CLASSES = 10


class GaussianGivenClass(nn.Module):
    """q(z|x, y): a network of the pixels and the class."""

    latent_dim: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, y: Array) -> distributions.Normal:
        """For images x `[B, H, W, C]` and classes y `[*samples, B, 1, 10]`."""
        x = jnp.broadcast_to(x.reshape(len(x), -1), (*y.shape[:-2], x[0].size))
        outputs = models.MLP(self.hidden, outputs=2 * self.latent_dim)(jnp.concatenate([x, y[..., 0, :]], axis=-1))
        return distributions.Normal(*jnp.split(outputs, 2, axis=-1))


class M2(nn.Module):
    """M2 with Bernoulli pixels. A sample is the tuple of classes `[K, B, 1, 10]` and styles `[K, B, latent_dim]`."""

    latent_dim: int = 8
    hidden: tuple[int, ...] = (64,)
    pixels: int = 64

    def setup(self):
        self.classifier = models.MLP(self.hidden, outputs=CLASSES, event_ndim=3)
        self.style = GaussianGivenClass(self.latent_dim, self.hidden)
        identity = lambda z: z
        read = ReadBlocks((identity, identity), event_ndims=(2, 1))
        self.decoder = models.Decoder(models.MLP(self.hidden, outputs=self.pixels), read=read)

    def __call__(self, x: Array) -> Array:
        q = self.encode(x)
        return self.log_joint(x, q.sample(jax.random.key(0), 1))

    def encode(self, x: Array) -> Markov:
        """q(y|x) q(z|x, y). The second block holds its weights and the images."""
        y = distributions.Categorical(self.classifier(x)[:, None])
        if self.is_initializing():
            self.style(x, y.sample(jax.random.key(0), 1)[0])
        style = self.style.clone(parent=None, name=None)
        conditional = lambda weights, y: style.apply(*weights, y)
        return Markov(y, ((self.style.variables, x),), (conditional,))

    def decode(self, z: tuple[Array, Array]) -> distributions.Bernoulli:
        """p(x|y, z)."""
        return self.decoder(z)

    def log_joint(self, x: Array, z: tuple[Array, Array]) -> Array:
        """log p(x, y, z), `[K, B]`. Grey pixels give its mean over their binarizations, because it is linear in x."""
        log_prior = -jnp.log(float(CLASSES)) - 0.5 * jnp.sum(jnp.square(z[1]) + jnp.log(2 * jnp.pi), axis=-1)
        return self.decoder(z).log_prob(x.reshape(len(x), -1)) + log_prior


def unlabelled_bound(apply: Callable, params: Any, x: Array, expect: Expect) -> estimators.Estimate:
    """The bound on log p(x), nats `[B]`: the ELBO over y and z."""
    q = apply(params, x, method="encode")
    return expect(q, lambda z: apply(params, x, z, method="log_joint"), log_q_weight=1.0)


def labelled_bound(apply: Callable, params: Any, x: Array, y: Array, key: Array) -> Array:
    """The bound on log p(x, y), nats `[B]`, for one-hot classes y `[B, 1, 10]`; one pathwise sample of z."""
    style = apply(params, x, method="encode").layer(1, y)
    f = lambda z: apply(params, x, (jnp.broadcast_to(y, (len(z), *y.shape)), z), method="log_joint")
    return estimators.reparam().estimate({}, {}, key, style, f, log_q_weight=1.0).value


def log_prob_of_labels(apply: Callable, params: Any, x: Array, y: Array) -> Array:
    """log q(y|x), nats `[B]`."""
    return apply(params, x, method="encode").first.log_prob(y)
