"""REBAR (Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein 2017, arXiv:1703.07370): a relaxed control variate."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.relaxed_control import relaxed_control


def rebar(num_samples: int = 1) -> Estimator:
    """The control variate is `scale` times f at the relaxed sample. The scale and the temperature are learned.

    `cv_loss` is the squared length of the whole gradient in the logits. A Bernoulli latent is treated as two classes
    with two logits, so its `cv_loss` is twice the squared gradient in its single logit.
    """

    def init(key, q, context=None):
        del key, context
        one = jnp.ones((), q.logits.dtype)
        return {"scale": one, "log_temperature": jnp.log(0.5 * one)}, {}

    def control(params, f, relaxed, features):
        del features
        return params["scale"] * f(relaxed)

    return relaxed_control(num_samples, init, control)
