"""RELAX (Grathwohl, Choi, Wu, Roeder & Duvenaud 2017, arXiv:1711.00123): REBAR plus a learned network."""

import jax.numpy as jnp

from vae.estimators.contract import Estimator
from vae.estimators.parts.baseline import Baseline, features_of
from vae.estimators.parts.relaxed_control import relaxed_control
from vae.estimators.tools import check_positive


def relax(num_samples: int = 1, hidden: int = 100) -> Estimator:
    """The control variate is the sum of REBAR's control variate and a network of the relaxed sample and the context.

    The network has one hidden layer of `hidden` tanh units, and its output is 0 before training. The network in the
    paper is larger: it has layers of 200 ReLUs. The relaxed samples with and without the condition on z share their
    noise, as in REBAR.
    """
    check_positive(hidden=hidden)
    network = Baseline(hidden)

    def init(key, q, context=None):
        one = jnp.ones((), q.logits.dtype)
        inputs = _join(q.mean, features_of(q, context))
        params = {"scale": one, "log_temperature": jnp.log(0.5 * one), "network": network.init(key, inputs)}
        return params, {}

    def control(params, f, relaxed, features):
        return params["scale"] * f(relaxed) + network.apply(params["network"], _join(relaxed, features))

    return relaxed_control(num_samples, init, control)


def _join(z, features):
    """Joins z `[..., D, C]` and features `[*batch, F]` into one array `[..., D C + F]`."""
    flat = z.reshape(*z.shape[:-2], z.shape[-2] * z.shape[-1])
    return jnp.concatenate([flat, jnp.broadcast_to(features, (*flat.shape[:-1], features.shape[-1]))], axis=-1)
