"""The formula of all score-function estimators, which differ only in their control.

The control of sample k does not depend on z_k. The signal of sample k is the reduced values minus the reduced values
with f_k replaced by its control. The gradient is the sum over k of the signal times the score of z_k.
"""

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
    """Returns `reduce(values)`, with the score-function gradient that has `control` as its control for each value."""
    return weigh_scores(q, z, reduce(values), learning_signal(values, control, reduce))


def weigh_scores(
    q: Distribution, z: Samples, bound: Float[Array, "*batch"], signal: Float[Array, "K *batch"]
) -> Float[Array, "*batch"]:
    """Returns `bound`, with sum_k signal_k grad log q(z_k) added to its derivative."""
    return attach(bound, bound + jnp.sum(stop_gradient(signal) * q.log_prob(z), axis=0))


def learning_signal(
    values: Float[Array, "K *batch"], control: Float[Array, "K *batch"], reduce: Reduction
) -> Float[Array, "K *batch"]:
    """For each sample k, the bound minus the bound in which the value of sample k is replaced by its control."""
    if reduce.shift_equivariant:
        # The signal is a small difference of values that may be large. A common shift does not change the difference,
        # and a shift to near 0 keeps float32 from rounding the difference away.
        centre = stop_gradient(values[:1])
        values = values - centre
        control = control - centre
    eye = jnp.eye(len(values), dtype=bool).reshape(len(values), len(values), *[1] * (values.ndim - 1))
    replaced = jnp.where(eye, control[:, None], values[None])  # [k, j, *batch]: row k has the k-th value replaced
    return reduce(values) - jax.vmap(reduce)(replaced)


def mean_of_others(x: Array) -> Array:
    """Returns, for each sample, the mean of x over the other samples; x and the result are `[K, ...]`."""
    return (jnp.sum(x, axis=0) - x) / (len(x) - 1)
