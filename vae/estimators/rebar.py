"""REBAR (Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein 2017, arXiv:1703.07370)."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.relaxed_control import relaxed_control


def rebar(num_samples: int = 1) -> Estimator:
    """The control variate is `scale` times f at the relaxed sample; scale and temperature are learned.

    `cv_loss` is the square of the whole gradient in the logits. For a Bernoulli latent these are the logits of both
    classes, so the loss is twice that of the one logit.
    """

    def init(key, q, context=None):
        del key, context
        one = jnp.ones((), q.logits.dtype)
        return {"scale": one, "log_temperature": jnp.log(0.5 * one)}, {}

    def control(params, f, relaxed, features):
        del features
        return params["scale"] * f(relaxed)

    return relaxed_control(num_samples, init, control)
