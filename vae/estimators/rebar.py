"""REBAR and RELAX: a control variate c(x) on the noisy logits x = l + Gumbel noise, whose argmax is z.

  gradient = (f(z) - c(x')) d log q(z) + d c(x) - d c(x'),    x' ~ p(x | z)

x' is differentiated too, through the sampler of the noise given z. Coupled so that x' = x (REBAR's common random
numbers), x_j moves by dl_j and x'_j by (1 - r_j) dl_j + r_j d logsumexp(l), with r_j = exp(x_j - max x): they differ by
r_j d log pi_j. So all of it is a weight on each log-probability:

  gradient = sum_j w_j d log pi_j,    w = (f(z) - c(x)) z + r dc/dx.

What c depends on beside x, be it l itself, is the same in c(x) and c(x') and cancels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimate, Estimator, check_positive, mean
from vae.estimators.baseline import Baseline, features_of
from vae.estimators.double_cv import least_variance
from vae.estimators.one_hot import harden, perturb, two_classes


def rebar(num_samples: int = 1) -> Estimator:
    """REBAR (Tucker et al. 2017, arXiv:1703.07370): c is `scale` times f at the relaxed sample. Scale and temperature
    are learned: `cv_loss` is the square of the whole gradient in the logits (of both classes of a Bernoulli latent, so
    twice that of its one logit)."""

    def init(key, q, context=None):
        del key, context
        one = jnp.ones((), q.logits.dtype)
        return {"scale": one, "log_temperature": jnp.log(0.5 * one)}, {}

    def control(params, f, relaxed, features):
        del features
        return params["scale"] * f(relaxed)

    return _controlled(num_samples, init, control)


def relax(num_samples: int = 1, hidden: int = 100) -> Estimator:
    """RELAX (Grathwohl et al. 2017, arXiv:1711.00123): REBAR's c plus a network of the relaxed sample and the context,
    one hidden layer of `hidden` tanh units, zero before training. The paper's is larger, layers of 200 ReLUs."""
    check_positive(hidden=hidden)
    network = Baseline(hidden)

    def init(key, q, context=None):
        scalars, state = rebar().init(key, q, context)
        return scalars | {"network": network.init(key, _join(q.mean, features_of(q, context)))}, state

    def control(params, f, relaxed, features):
        return params["scale"] * f(relaxed) + network.apply(params["network"], _join(relaxed, features))

    return _controlled(num_samples, init, control)


def _controlled(num_samples: int, init: Callable, control: Callable) -> Estimator:
    """The estimator with c = control(params, f, relaxed x, features of the context) `[K, *batch]`."""

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        frozen, features = stop_gradient(q), features_of(q, context)
        x = perturb(key, frozen, num_samples)  # [K, *batch, D, C]
        z = harden(x)
        values = f(z, q)
        r = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))

        def gradient(params):
            relaxed = lambda x: relax_towards_mean(x, frozen.logits, jnp.exp(params["log_temperature"]))
            c, pullback = jax.vjp(lambda x: control(params, lambda z: f(z, frozen), relaxed(x), features), x)
            weight = (values - c)[..., None, None] * z + r * pullback(jnp.ones_like(c))[0]
            return mean(weight - frozen.mean * jnp.sum(weight, axis=-1, keepdims=True))

        return least_variance(params, state, q, lambda q: reduce(f(z, q)), gradient)

    return two_classes(Estimator(init, estimate))


def relax_towards_mean(x, logits, temperature):
    """Perturbed logits `[..., D, C]` to the simplex, by REBAR's second relaxation, that of its experiments: the hard
    sample as the temperature falls to 0, and q's mean, where softmax(x / temperature) has the uniform one, as it
    grows."""
    return jax.nn.softmax((x + temperature**2 / (1 + temperature) * logits) / temperature)


def _join(z, features):
    """z `[..., D, C]` and features `[*batch, F]` to `[..., D C + F]`."""
    flat = z.reshape(*z.shape[:-2], -1)
    return jnp.concatenate([flat, jnp.broadcast_to(features, (*flat.shape[:-1], features.shape[-1]))], axis=-1)
