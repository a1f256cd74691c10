"""Residual networks for images: the architecture `resnet`.

Blocks are pre-activation (He et al. 2016, arXiv:1603.05027) with group norm (Wu & He 2018, arXiv:1803.08494), so an
image's features do not depend on the images beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vae.devices import mesh
from vae.models.networks import ARCHITECTURES, MLP, Architecture

# An image is halved until its longer side is at most this number of pixels.
SMALLEST = 8
# The number of channels of a group, where it divides the number of all channels.
GROUP_SIZE = 8

Features = Float[Array, "B H W C"]


def resolutions(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of the features, from the image's to the smallest: 28, 14, 7; 32, 16, 8; or 64, 32, 16, 8."""
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST:
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return sizes


class Activated(nn.Module):
    """Group norm, which computes in float32 whatever the `dtype` is, and activation."""

    activation: Callable[[Array], Array]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, h: Features) -> Features:
        size = math.gcd(h.shape[-1], GROUP_SIZE)
        wide = h if self.dtype is None else h.astype(jnp.float32)
        wide = nn.GroupNorm(None, group_size=size, name="norm")(wide)
        return self.activation(wide.astype(h.dtype))


class ActivatedConv(nn.Module):
    """Group norm, activation, and a 3x3 convolution."""

    channels: int
    activation: Callable[[Array], Array]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, h: Features) -> Float[Array, "B H W channels"]:
        h = Activated(self.activation, self.dtype, name="activated")(h)
        return nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv")(h)


class ResidualBlocks(nn.Module):
    """Blocks at one resolution, each of which adds the result of two convolutions to its input."""

    blocks: int
    activation: Callable[[Array], Array]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, h: Features) -> Features:
        conv = lambda name: ActivatedConv(h.shape[-1], self.activation, self.dtype, name=name)
        for i in range(self.blocks):
            h = h + conv(f"second_{i}")(conv(f"first_{i}")(h))
        return h


class ResNetEncoder(nn.Module):
    """Images `[B, H, W, C]` to features `[B, F]`: residual blocks at every resolution, and dense layers."""

    blocks: int
    width: int
    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "B H W C"]) -> Float[Array, "B F"]:
        for i in range(len(resolutions(*x.shape[1:3]))):
            stride = 1 if i == 0 else 2
            x = nn.Conv(self.width, (3, 3), strides=stride, dtype=self.dtype, name=f"conv_{i}")(x)
            x = ResidualBlocks(self.blocks, self.activation, self.dtype, name=f"blocks_{i}")(x)
        x = Activated(self.activation, self.dtype, name="activated")(x)
        return MLP(self.hidden, self.activation, event_ndim=3, dtype=self.dtype, name="dense")(x)


class ResNetDecoder(nn.Module):
    """Samples `[K, B, D]` to pixels `[K, B, H * W * C]`: the mirror image of `ResNetEncoder`.

    To double the size, each feature is repeated, and a convolution follows.
    """

    blocks: int
    width: int
    hidden: tuple[int, ...]
    image_shape: tuple[int, int, int]
    activation: Callable[[Array], Array] = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, z: Float[Array | np.ndarray, "K B D"]) -> Float[Array, "K B pixels"]:
        *shape, colours = self.image_shape
        (rows, columns), *larger = resolutions(*shape)[::-1]
        h = MLP(self.hidden[::-1], self.activation, rows * columns * self.width, dtype=self.dtype, name="dense")(z)

        def apply_to_rows(h):
            h = h.reshape(len(h), rows, columns, self.width)
            h = ResidualBlocks(self.blocks, self.activation, self.dtype, name="blocks_0")(h)
            for i, (height, width) in enumerate(larger, 1):
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)[:, :height, :width]
                h = nn.Conv(self.width, (3, 3), dtype=self.dtype, name=f"conv_{i}")(h)
                h = ResidualBlocks(self.blocks, self.activation, self.dtype, name=f"blocks_{i}")(h)
            return ActivatedConv(colours, self.activation, self.dtype, name="pixels")(h).reshape(len(h), -1)

        return mesh.by_rows(apply_to_rows, h, h.ndim - 1)


@dataclass(frozen=True)
class ResNetArchitecture(Architecture):
    """Residual convolutions with `blocks` blocks of `width` channels at each resolution; `hidden` are the widths of
    dense layers between the smallest features and z."""

    blocks: int = 2
    width: int = 64
    name: ClassVar[str] = "resnet"

    def __post_init__(self) -> None:
        for option in ("blocks", "width"):
            if getattr(self, option) < 1:
                raise ValueError(f"architecture=resnet needs {option} of at least 1, got {getattr(self, option)}")

    def encoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return ResNetEncoder(self.blocks, self.width, hidden, activation, dtype)

    def decoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return ResNetDecoder(self.blocks, self.width, hidden, image_shape, activation, dtype)


ARCHITECTURES.add("resnet", ResNetArchitecture)
