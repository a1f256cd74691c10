"""The score-function family in one formula: replace f_k by a control that does not depend on z_k, apply `reduce`,
subtract, and weigh the score of z_k by the difference. The estimators differ only in the control."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.estimators.contract import Distribution, Reduction, Samples
from vae.estimators.tools import attach


def score_surrogate(
    q: Distribution,
    z: Samples,
    values: Float[Array, "K *batch"],
    control: Float[Array, "K *batch"],
    reduce: Reduction,
) -> Float[Array, "*batch"]:
    """Forward `reduce(values)`; backward the score-function gradient with `control` for each value."""
    return weigh_scores(q, z, reduce(values), learning_signal(values, control, reduce))


def weigh_scores(
    q: Distribution, z: Samples, bound: Float[Array, "*batch"], signal: Float[Array, "K *batch"]
) -> Float[Array, "*batch"]:
    """Forward `bound`; backward its own derivative plus sum_k signal_k grad log q(z_k)."""
    return attach(bound, bound + jnp.sum(stop_gradient(signal) * q.log_prob(z), axis=0))


def learning_signal(
    values: Float[Array, "K *batch"], control: Float[Array, "K *batch"], reduce: Reduction
) -> Float[Array, "K *batch"]:
    """What the bound loses when the value of sample k is replaced by its control, for each k."""
    if reduce.shift_equivariant:
        # The signal is a difference of values. Taking their common size off first keeps large values from rounding it.
        centre = stop_gradient(values[:1])
        values = values - centre
        control = control - centre
    eye = jnp.eye(len(values), dtype=bool).reshape(len(values), len(values), *[1] * (values.ndim - 1))
    replaced = jnp.where(eye, control[:, None], values[None])  # [k, j, *batch]: the values with the k-th replaced
    return reduce(values) - jax.vmap(reduce)(replaced)


def mean_of_others(x: Array) -> Array:
    """For each sample the mean over the other samples: `[K, ...]` to `[K, ...]`."""
    return (jnp.sum(x, axis=0) - x) / (len(x) - 1)
