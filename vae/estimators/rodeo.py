"""RODEO (Shi, Zhou, Hwang, Titsias & Mackey 2022, arXiv:2202.09497): double control variates from a Stein operator A.

For every function h, E[(A h)(z)] = 0. So any h gives a control variate whose expectation is known.
"""

import jax.numpy as jnp

from vae.estimators.contract import Estimate, Estimator, mean
from vae.estimators.parts.control_variates import least_variance, values_and_slopes
from vae.estimators.parts.one_dimension import other_values
from vae.estimators.parts.score_function import mean_of_others
from vae.estimators.parts.stein import stein, stein_of_score
from vae.estimators.parts.surrogate_network import SurrogateNetwork
from vae.estimators.tools import check_positive, held, integrand


def rodeo(num_samples: int = 2, hidden: int = 100) -> Estimator:
    """The control of sample k is the mean of f_j + alpha (A h_j)(z_j) over the *other* samples j. The term
    beta A(h~_k score)(z_k) is added to the gradient.

    One network computes h_k and h~_k from the other samples: from the mean of their values of f, and from the change of
    f that the mean of their slopes predicts. alpha and beta start at 0, where the estimator is leave-one-out. They are
    learned together with the network.
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
        f = integrand(f, held(q, reduce), log_q_weight)
        values, slopes = values_and_slopes(f, q, z)
        elsewhere, probability = other_values(q, z)  # [A, K, *batch, *event], [A, K, *batch, D]
        score = z - q.mean
        moves = elsewhere - z
        event = tuple(range(values.ndim, z.ndim))
        event_of_a_move = tuple(range(probability.ndim, moves.ndim))
        # The network sees the mean f of the other samples, and a change: by how much f differs from this mean according
        # to the mean slope of the other samples, at z and after each move of z.
        level = mean_of_others(values)
        slope = mean_of_others(slopes)
        change = jnp.sum(slope * z, axis=event) - mean_of_others(jnp.sum(slopes * z, axis=event))  # [K, *batch]
        change_moved = change[..., None] + jnp.sum(slope * moves, axis=event_of_a_move)  # [A, K, *batch, D]

        def surrogate(params, changes):
            """h and h~ at `changes` `[A, K, *batch, D]`, both in the shape of `changes`."""
            outputs = network.apply(params["network"], level, jnp.moveaxis(changes, 0, -1))
            return tuple(jnp.moveaxis(h, -1, 0) for h in outputs)

        def gradient(params):
            h, h_score = (h[0, ..., 0] for h in surrogate(params, change[None, ..., None]))
            h_moved, h_score_moved = surrogate(params, change_moved)
            v = values + params["alpha"] * stein(probability, h, h_moved)
            leave_one_out = jnp.expand_dims(values - mean_of_others(v), event) * score
            on_top = stein_of_score(probability, moves, score, h_score, h_score_moved)
            return mean(leave_one_out + params["beta"] * on_top)

        return least_variance(params, state, q, reduce(f(z)), gradient)

    return Estimator(init, estimate)
