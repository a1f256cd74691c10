"""What estimators of discrete latents share: Bernoulli latents as categorical ones of two classes, samples with a path
for f to be differentiated along, and the Gumbel-max trick, forwards and given its outcome."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from vae.distributions import Bernoulli, Categorical
from vae.estimators.base import Estimate, Estimator, hold_density, mean, stateless


def two_classes(estimator: Estimator, hold: bool = False) -> Estimator:
    """An estimator of Categorical latents, made to take Bernoulli ones too: z is the first of two classes, of logits
    (l, 0). The difference of two Gumbels is logistic, so the relaxations are those of the binary papers. `hold`:
    without the derivative of log q(z) in q."""

    def lift(q):
        if isinstance(q, Categorical):
            return q, lambda f: f
        pair = Categorical(jnp.stack([q.logits, jnp.zeros_like(q.logits)], axis=-1))
        lower = lambda pair: Bernoulli(pair.logits[..., 0] - pair.logits[..., 1])
        return pair, lambda f: lambda z, pair: f(z[..., 0], lower(pair))

    def init(key, q, context=None):
        return estimator.init(key, lift(q)[0], context)

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        f = hold_density(f, reduce) if hold else f
        q, lift_f = lift(q)
        return estimator.estimate(params, state, key, q, lift_f(f), reduce, context)

    return Estimator(init, estimate)


def along(path: Callable, relaxed: bool = False) -> Estimator:
    """The estimator that evaluates f at z = path(key, q) `[K, *batch, D, C]` and differentiates it through z; at a
    relaxed z in q too, so that the value is differentiated exactly."""

    def estimate(key, q, f, reduce):
        return reduce(f(path(key, q), q))

    return two_classes(stateless(estimate), hold=not relaxed)


def perturb(key: Array, q: Categorical, num_samples: int) -> Array:
    """logits + Gumbel noise, `[K, *batch, D, C]`: `harden` of it is a sample of q."""
    return q.logits + jax.random.gumbel(key, (num_samples, *q.logits.shape), q.logits.dtype)


def perturb_given(key: Array, q: Categorical, z: Array, num_samples: int) -> Array:
    """The same, given that `harden` of it is z `[K, *batch, D, C]`: `[M, K, *batch, D, C]`. The largest is Gumbel about
    logsumexp(logits) whichever it is, and truncates the others (Maddison, Tarlow & Minka 2014, arXiv:1411.0030)."""
    noise = jax.random.gumbel(key, (num_samples, *z.shape), z.dtype)
    top = jax.nn.logsumexp(q.logits, axis=-1, keepdims=True) + jnp.sum(z * noise, axis=-1, keepdims=True)
    return jnp.where(z == 1, top, -jnp.logaddexp(-(q.logits + noise), -top))


def harden(x: Array) -> Array:
    """Perturbed logits `[..., C]` to one-hot samples."""
    return jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
