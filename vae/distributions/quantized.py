"""Point masses on codes: vector quantization and finite scalar quantization, and the uniform distribution of codes.

A sample z `[K, *batch, D, W]` has D positions, each with a code vector of W numbers. q(z|x) is one code at each
position, so all samples are equal, log q(z) = 0, and the value of a bound is exact. As a function of the encoding the
bound is piecewise constant: it has no useful derivative, and estimators of quantizers replace the derivative by
another.
"""

import math
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vae.distributions.base import check_levels, family
from vae.distributions.discrete import IMPOSSIBLE

Codes = Float[Array | np.ndarray, "*#samples D W"]
Codebook = Float[Array | np.ndarray, "C W"]


def nearness(encoding: Codes, codebook: Codebook) -> Float[Array, "*#samples D C"]:
    """-|e - c|^2 + |e|^2 for each position and each code c; the nearest code has the largest value.

    |e|^2 is the same for all codes, and a softmax over codes does not depend on it.
    """
    product = jnp.matmul(encoding, codebook.T, precision=jax.lax.Precision.HIGHEST)
    return 2 * product - jnp.sum(jnp.square(codebook), axis=-1)


class PointMass:
    """Base of the families with one deterministic code: they have `encoding`, `index`, `code` and `num_codes`."""

    factorized = False
    is_deterministic = True

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.encoding.shape[:-2]

    @property
    def mean(self) -> Float[Array, "*batch D W"]:
        return self.code

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D W"]:
        del key
        return stop_gradient(jnp.broadcast_to(self.code, (num_samples, *self.encoding.shape)))

    def log_prob(self, z: Codes) -> Float[Array, "*#samples"]:
        """0 at the code, and the log-probability of an impossible event at all other points."""
        is_code = jnp.all(z == self.code, axis=-1)
        return jnp.sum(jnp.where(is_code, 0.0, IMPOSSIBLE).astype(self.encoding.dtype), axis=-1)

    def code_counts(self) -> Float[Array, "C"]:
        """How often each code is used in the batch, over all positions."""
        return jnp.zeros(self.num_codes, self.encoding.dtype).at[self.index.reshape(-1)].add(1)


@family
class Quantized(PointMass):
    """Each position has the code of the codebook that is nearest to its encoding (VQ-VAE, van den Oord, Vinyals &
    Kavukcuoglu 2017, arXiv:1711.00937).

    The codebook is the same for all data, and has no axes of the batch. Like the weights of a flow, it is a leaf of the
    pytree, so gradients reach it and `stop_gradient(q)` holds it.

    Attributes:
      encoding: `[*batch, D, W]`, the encoder's output e.
      codebook: `[C, W]`.
      codebook_loss, commitment_loss: the weights of the two terms of `loss`.
    """

    encoding: Float[Array, "*batch D W"]
    codebook: Any
    codebook_loss: float = field(default=0.0, metadata={"static": True})
    commitment_loss: float = field(default=0.0, metadata={"static": True})

    @property
    def num_codes(self) -> int:
        return self.codebook.shape[0]

    @property
    def index(self) -> Int[Array, "*batch D"]:
        return jnp.argmax(stop_gradient(nearness(self.encoding, self.codebook)), axis=-1)

    @property
    def code(self) -> Float[Array, "*batch D W"]:
        """The nearest code, a differentiable function of the codebook."""
        return jnp.asarray(self.codebook)[self.index]

    def loss(self) -> Float[Array, "*batch"]:
        """|sg(e) - c|^2, which moves codes to encodings, and |e - sg(c)|^2, which moves encodings to codes, weighted
        and summed over the positions; sg is `stop_gradient` (arXiv:1711.00937, equation 3).

        This is a loss of q and not a part of a bound or an estimator: it needs only the encoding and the codebook, and
        it is the same for every bound and every estimator. `vae.objectives` adds its derivative to that of the bound;
        the value stays the bound.
        """
        distance = lambda e, c: jnp.sum(jnp.square(e - c), axis=(-2, -1))
        moves_codes = distance(stop_gradient(self.encoding), self.code)
        moves_encodings = distance(self.encoding, stop_gradient(self.code))
        return self.codebook_loss * moves_codes + self.commitment_loss * moves_encodings


@family
class Rounded(PointMass):
    """Each number is rounded to the nearest of the L levels of its channel, which start at -1 and go on in steps of
    1 / (L // 2) (finite scalar quantization, Mentzer et al. 2023, arXiv:2309.15505). No codebook is learned.

    Attributes:
      encoding: `[*batch, D, W]`, the numbers that are rounded.
      levels: the number of levels of each of the W channels.
    """

    encoding: Float[Array, "*batch D W"]
    levels: tuple[int, ...] = field(metadata={"static": True})

    def check(self) -> None:
        check_levels(self, min(self.levels))

    @property
    def num_codes(self) -> int:
        return math.prod(self.levels)

    @property
    def index(self) -> Int[Array, "*batch D"]:
        digits = (self._steps() + self._half()).astype(jnp.int32)
        strides = np.cumprod([1, *self.levels[:0:-1]])[::-1].astype(np.int32)
        return jnp.sum(digits * strides, axis=-1)

    @property
    def code(self) -> Float[Array, "*batch D W"]:
        return self._steps() / self._half()

    def _steps(self) -> Float[Array, "*batch D W"]:
        half = self._half()
        last = np.asarray(self.levels, half.dtype) - 1 - half
        return jnp.clip(jnp.round(stop_gradient(self.encoding) * half), -half, last)

    def _half(self) -> np.ndarray:
        return (np.asarray(self.levels) // 2).astype(self.encoding.dtype)


def grid(levels: tuple[int, ...]) -> Float[np.ndarray, "C W"]:
    """The codes of `Rounded`, in the order of its `index`."""
    digits = np.indices(levels).reshape(len(levels), -1).T
    half = np.asarray(levels) // 2
    return ((digits - half) / half).astype(np.float32)


@family
class UniformCodes:
    """D independent codes, each of them uniform over the codebook: the prior of quantized latents.

    `log_prob` does not check that z consists of codes.

    Attributes:
      codebook: `[C, W]`.
      positions: D.
    """

    codebook: Any
    positions: int = field(metadata={"static": True})

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.positions, self.codebook.shape[1])

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} D W"]:
        index = jax.random.randint(key, (num_samples, self.positions), 0, self.codebook.shape[0])
        return stop_gradient(jnp.asarray(self.codebook)[index])

    def log_prob(self, z: Codes) -> Float[Array, "*#samples"]:
        return jnp.full(z.shape[:-2], -self.nats, z.dtype)

    @property
    def nats(self) -> float:
        """-log of the probability of any z: D log C."""
        return self.positions * math.log(self.codebook.shape[0])
