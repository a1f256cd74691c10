"""The network of RODEO (Shi et al. 2022, arXiv:2202.09497), evaluated at many points that differ in one number."""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array

LEAK = 0.3  # the slope of the leaky ReLUs below zero


class SurrogateNetwork(nn.Module):
    """Maps the level of f and a change of f to (h, h~), with one hidden layer of leaky ReLUs.

    As a function of the change, each output is piecewise linear, with a knot for each hidden unit. The value at change
    0 and the slope of every piece are computed once for each sample. For each of the many moves of the sample, a search
    in the sorted knots finds the piece. A move therefore costs log2(hidden) comparisons instead of an evaluation of the
    network.
    """

    hidden: int

    @nn.compact
    def __call__(self, level: Array, change: Array) -> tuple[Array, Array]:
        """Returns h and h~ in the shape of `change` `[*rows, *points]`, for a level `[*rows]`."""
        inner = self.param("inner", nn.initializers.lecun_normal(), (2, self.hidden), change.dtype)
        inner_bias = self.param("inner_bias", nn.initializers.zeros, (self.hidden,), change.dtype)
        outer = self.param("outer", nn.initializers.lecun_normal(), (self.hidden, 2), change.dtype)
        outer_bias = self.param("outer_bias", nn.initializers.zeros, (2,), change.dtype)
        points = change.shape[level.ndim :]
        change = change.reshape(*level.shape, math.prod(points))  # [*rows, N]

        # The input of a hidden unit is start + slope * change. A flat unit gets a tiny slope, so its knot is far away.
        start = level[..., None] * inner[0] + inner_bias  # [*rows, hidden]
        slope = inner[1] + jnp.where(inner[1] == 0, jnp.finfo(inner.dtype).tiny, 0)
        knots = stop_gradient(-start / slope)
        order = jnp.argsort(knots, axis=-1)
        piece = _position(jnp.take_along_axis(knots, order, axis=-1), change)  # [*rows, N]
        # The leaky ReLU multiplies a negative input by LEAK. The input is negative to the left of the knot if the slope
        # is positive, and to the right otherwise.
        left = jnp.where(slope > 0, LEAK, 1.0)[:, None]
        right = 1 + LEAK - left

        def on_the_piece(unit):
            """The sum over units of `unit` `[*rows, hidden, 2]` times its factor, `left` or `right`, at each change."""
            first = jnp.sum(left * unit, axis=-2, keepdims=True)  # to the left of all knots
            bends = jnp.take_along_axis((right - left) * unit, order[..., None], axis=-2)
            pieces = jnp.concatenate([first, first + jnp.cumsum(bends, axis=-2)], axis=-2)  # [*rows, hidden + 1, 2]
            return jnp.take_along_axis(pieces, piece[..., None], axis=-2)  # [*rows, N, 2]

        at_zero = on_the_piece(start[..., None] * outer)
        rise = on_the_piece(jnp.broadcast_to(slope[:, None] * outer, (*start.shape, 2)))
        outputs = at_zero + rise * change[..., None] + outer_bias
        return outputs[..., 0].reshape(*level.shape, *points), outputs[..., 1].reshape(*level.shape, *points)


# _position(sorted, x) counts, for each row, the sorted numbers that are smaller than x.
_position = jnp.vectorize(functools.partial(jnp.searchsorted, method="scan_unrolled"), signature="(m),(n)->(n)")
