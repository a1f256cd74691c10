"""NVIL (Mnih & Gregor 2014, arXiv:1402.0030): the control is a moving average plus a network of the context."""

import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts import moving_average
from vae.estimators.parts.baseline import Baseline, features_of
from vae.estimators.parts.score_function import score_surrogate
from vae.estimators.tools import check_decay, check_positive, held, integrand, isolated_loss


def nvil(num_samples: int = 1, decay: float = 0.99, hidden: int = 100) -> Estimator:
    """The network has one hidden layer of `hidden` tanh units and is fitted to the values by least squares (`cv_loss`).

    The paper also divides the signal by a running standard deviation. That division rescales the gradient and so biases
    it, and is left out here.
    """
    check_decay(decay)
    check_positive(hidden=hidden)
    network = Baseline(hidden)

    def init(key, q, context=None):
        return network.init(key, features_of(q, context)), moving_average.start(q)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        centre = moving_average.read(state, decay)
        features = features_of(q, context)
        target = stop_gradient(values) - centre
        possible = jnp.isfinite(target)
        error = lambda p: jnp.where(possible, jnp.where(possible, target, 0.0) - network.apply(p, features), 0.0)
        cv_loss = isolated_loss(lambda p: jnp.mean(jnp.square(error(p))), params)
        control = jnp.broadcast_to(centre + stop_gradient(network.apply(params, features)), values.shape)
        value = score_surrogate(q, z, values, control, reduce)
        return Estimate(value, cv_loss, moving_average.update(state, values, decay))

    return Estimator(init, estimate)
