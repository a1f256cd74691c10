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
    """For each sample k, the bound minus the bound in which the value of sample k is replaced by its control.

    A value or a control of -inf is an impossible state. Where the replaced bound is -inf, nothing is subtracted.
    """
    bound = reduce(values)
    if reduce.shift_equivariant:
        # The signal is a small difference of values that may be large. A common shift does not change the difference,
        # and a shift to near 0 keeps float32 from rounding the difference away.
        centre = stop_gradient(_first_finite(values))
        values = values - centre
        control = control - centre
    eye = jnp.eye(len(values), dtype=bool).reshape(len(values), len(values), *[1] * (values.ndim - 1))
    replaced = jnp.where(eye, control[:, None], values[None])  # [k, j, *batch]: row k has the k-th value replaced
    without = jax.vmap(reduce)(replaced)
    return jnp.where(without == -jnp.inf, bound, reduce(values) - without)


def mean_of_others(x: Array) -> Array:
    """Returns, for each sample, the mean of x over the other samples; x and the result are `[K, ...]`.

    The mean is -inf if x of another sample is -inf.
    """
    impossible = x == -jnp.inf
    possible = jnp.where(impossible, 0.0, x)
    mean_of_possible = (jnp.sum(possible, axis=0) - possible) / (len(x) - 1)
    count = jnp.sum(impossible, axis=0)
    another_is_impossible = (count > 1) | ((count == 1) & ~impossible)
    return jnp.where(another_is_impossible, -jnp.inf, mean_of_possible)


def _first_finite(values: Float[Array, "K *batch"]) -> Float[Array, "1 *batch"]:
    """The first of the K values that is finite, or 0 if none is."""
    finite = jnp.isfinite(values)
    first = jnp.take_along_axis(values, jnp.argmax(finite, axis=0, keepdims=True), axis=0)
    return jnp.where(jnp.isfinite(first), first, 0.0)
