"""RODEO (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497): double control variates whose terms need no known
mean, because a Stein operator gives every function the mean zero."""

import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts.control_variates import least_variance, values_and_slopes
from vae.estimators.parts.learning_signal import mean_of_others
from vae.estimators.parts.one_dimension import other_values
from vae.estimators.parts.stein import stein, stein_of_score
from vae.estimators.parts.surrogate_network import SurrogateNetwork
from vae.estimators.tools import check_positive, held, integrand


def rodeo(num_samples: int = 2, hidden: int = 100) -> Estimator:
    """Leave-one-out of f_j + alpha (A h_j)(z_j), plus beta A(h~_k score)(z_k).

    h and h~ are a network of what the *other* samples know: the mean of their f and of their slopes. alpha and beta
    start at 0, where this is leave-one-out, and are learned with the network.
    """
    check_positive(hidden=hidden)
    network = SurrogateNetwork(hidden)

    def init(key, q, context=None):
        del context
        zeros = lambda *shape: jnp.zeros(shape, q.logits.dtype)
        return {"network": network.init(key, zeros(), zeros(1)), "alpha": zeros(), "beta": zeros()}, {}

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        del context
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        values, slopes = values_and_slopes(integrand(f, stop_gradient(q), log_q_weight), z)
        elsewhere, probability = other_values(q, z)  # [A, K, *batch, *event], [A, K, *batch, D]
        score = z - q.mean
        moves = elsewhere - z
        event = tuple(range(values.ndim, z.ndim))
        # To first order around the other samples, f changes by `change` from them to z, and by slope * move on top.
        level = mean_of_others(values)
        slope = mean_of_others(slopes)
        change = jnp.sum(slope * z, axis=event) - mean_of_others(jnp.sum(slopes * z, axis=event))  # [K, *batch]
        moved = change[..., None] + jnp.sum(slope * moves, axis=tuple(range(probability.ndim, moves.ndim)))
        together = jnp.moveaxis(moved, 0, -1)  # [K, *batch, D, A]
        changes = jnp.concatenate([change[..., None], together.reshape(*change.shape, -1)], axis=-1)

        def split(h):
            """The outputs at the samples `[K, *batch]` and at their moves `[A, K, *batch, D]`."""
            return h[..., 0], jnp.moveaxis(h[..., 1:].reshape(together.shape), -1, 0)

        def gradient(params):
            (h, h_moved), (h_score, h_score_moved) = map(split, network.apply(params["network"], level, changes))
            v = values + params["alpha"] * stein(probability, h, h_moved)
            leave_one_out = jnp.expand_dims(values - mean_of_others(v), event) * score
            on_top = stein_of_score(probability, moves, score, h_score, h_score_moved)
            return mean(leave_one_out + params["beta"] * on_top)

        def bound(q):
            return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

        return least_variance(params, state, q, bound, gradient)

    return Estimator(init, estimate)
