"""Discrete latents as one-hot vectors: bits as two classes, the Gumbel-max trick, and Gumbel noise given the sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions import Bernoulli, Categorical
from vae.distributions.base import family
from vae.distributions.discrete import IMPOSSIBLE
from vae.estimators.contract import Estimate, Estimator, Integrand, mean


@family
class TwoClasses(Categorical):
    """Bits written as categorical variables of two classes, with logits (l, 0); the first class is a bit of 1."""

    def log_prob(self, z):
        return Bernoulli(self.logits[..., 0] - self.logits[..., 1]).log_prob(z[..., 0])


def accept_bits(estimator: Estimator) -> Estimator:
    """Makes an estimator for Categorical latents accept Bernoulli latents too, which it treats as `TwoClasses`.

    The difference of two Gumbel variables is logistic, so the relaxation of two classes equals the binary relaxation
    with logistic noise (Maddison, Mnih & Teh 2016, arXiv:1611.00712).
    """

    def as_classes(q: Bernoulli | Categorical) -> Categorical:
        if isinstance(q, Categorical):
            return q
        return TwoClasses(jnp.stack([q.logits, jnp.zeros_like(q.logits)], axis=-1))

    def init(key, q, context=None):
        return estimator.init(key, as_classes(q), context)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        f_of_classes: Integrand = f if isinstance(q, Categorical) else lambda z: f(z[..., 0])
        return estimator.estimate(params, state, key, as_classes(q), f_of_classes, reduce, log_q_weight, context)

    return Estimator(init, estimate)


def perturb(key: PRNGKeyArray, q: Categorical, num_samples: int) -> Float[Array, "K *batch D C"]:
    """Returns logits + Gumbel noise. `harden` turns these perturbed logits into a sample of q."""
    return q.logits + jax.random.gumbel(key, (num_samples, *q.logits.shape), q.logits.dtype)


def perturb_given(
    key: PRNGKeyArray, q: Categorical, z: Float[Array, "K *batch D C"], num_samples: int
) -> Float[Array, "M K *batch D C"]:
    """Draws M = num_samples results of `perturb` from their distribution given that `harden` turns each of them into z.

    The largest perturbed logit has a Gumbel distribution with location logsumexp(logits), independently of its class.
    The other perturbed logits have Gumbel distributions that are truncated at the largest (Maddison, Tarlow & Minka
    2014, arXiv:1411.0030).
    """
    noise = jax.random.gumbel(key, (num_samples, *z.shape), z.dtype)
    logits = jnp.maximum(q.logits, IMPOSSIBLE)  # the derivative of logaddexp at infinity is NaN
    top = jax.nn.logsumexp(q.logits, axis=-1, keepdims=True) + jnp.sum(z * noise, axis=-1, keepdims=True)
    return jnp.where(z == 1, top, -jnp.logaddexp(-(logits + noise), -top))


def harden(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Returns the one-hot vector of the largest entry of x."""
    return jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
