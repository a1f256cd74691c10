"""REBAR and RELAX: a control variate c(x) of the perturbed logits x = l + Gumbel noise, where z is the argmax of x.

  gradient = (f(z) - c(x')) d log q(z) + d c(x) - d c(x'),    x' ~ p(x | z)

Here d is the derivative in the logits l, and d c(x') includes the derivative of the sampler of x' given z. With REBAR's
common random numbers, x' equals x. A change dl of the logits then moves x_j by dl_j, and x'_j by
(1 - r_j) dl_j + r_j d logsumexp(l), with r_j = exp(x_j - max x). The difference of the two is r_j d log pi_j, where
pi = softmax(l). So the whole gradient is a weighted sum of the derivatives of the log-probabilities:

  gradient = sum_j w_j d log pi_j,    w = (f(z) - c(x)) z + r dc/dx.

f and c may also depend on l through log q. That derivative of f(z) has mean zero, and those of c(x) and c(x') cancel,
so all three are left out.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts.baseline import features_of
from vae.estimators.parts.control_variates import least_variance
from vae.estimators.parts.one_hot import accept_bits, harden, perturb
from vae.estimators.tools import integrand


def relaxed_control(num_samples: int, init: Callable, control: Callable) -> Estimator:
    """Makes the estimator whose control variate is c = `control(params, f, relaxed x, features of the context)`
    `[K, *batch]`. `init` makes the params and the state."""

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        frozen = stop_gradient(q)
        features = features_of(q, context)
        f_frozen = integrand(f, frozen, log_q_weight)
        x = perturb(key, frozen, num_samples)  # [K, *batch, D, C]
        z = harden(x)
        values = f_frozen(z)
        r = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))

        def gradient(params):
            relaxed = lambda x: relax_towards_mean(x, frozen.logits, jnp.exp(params["log_temperature"]))
            c, pullback = jax.vjp(lambda x: control(params, f_frozen, relaxed(x), features), x)
            weight = (values - c)[..., None, None] * z + r * pullback(jnp.ones_like(c))[0]
            return mean(weight - frozen.mean * jnp.sum(weight, axis=-1, keepdims=True))

        return least_variance(params, state, q, reduce(f_frozen(z)), gradient)

    return accept_bits(Estimator(init, estimate))


def relax_towards_mean(
    x: Float[Array, "*samples D C"], logits: Float[Array | np.ndarray, "*batch D C"], temperature: float | Array
) -> Float[Array, "*samples D C"]:
    """Maps perturbed logits x to the simplex, with the relaxation that REBAR's experiments use.

    As the temperature falls to 0, the result approaches the hard sample. As the temperature grows, the result
    approaches the mean of q, whereas softmax(x / temperature) approaches the uniform distribution.
    """
    return jax.nn.softmax((x + temperature**2 / (1 + temperature) * logits) / temperature)
