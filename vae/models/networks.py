"""Networks from images to features and from samples to pixels: the tables ARCHITECTURES and ACTIVATIONS.

Each table maps a name to a factory. The factory's keyword arguments are the options of the name:
`ACTIVATIONS.make("leaky_relu", negative_slope=0.3)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vae.devices import mesh
from vae.table import Table


class MLP(nn.Module):
    """Dense layers on the flattened event, each followed by the activation. Without hidden layers the map is linear.

    Attributes:
      hidden: widths of the layers.
      activation: function between the layers.
      outputs: width of a last, linear layer; None for none.
      event_ndim: number of axes of the inputs that are flattened, counted from the last.
      dtype: dtype of the layers' products and activations; None for the dtype of the inputs.

    Raises:
      ValueError: if the inputs have no batch axis before the axes of the event, as images without channels have none.
    """

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    outputs: int | None = None
    event_ndim: int = 1
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "..."]) -> Float[Array, "... F"]:
        if x.ndim <= self.event_ndim:
            raise ValueError(f"inputs need a batch axis and {self.event_ndim} more, got shape {list(x.shape)}")

        def apply_to_rows(h):
            h = h.reshape(len(h), -1)
            for i, width in enumerate(self.hidden):
                h = self.activation(nn.Dense(width, dtype=self.dtype, name=f"hidden_{i}")(h))
            return h if self.outputs is None else nn.Dense(self.outputs, dtype=self.dtype, name="outputs")(h)

        # All leading axes become one axis of rows: the gradient of a product over two axes takes a twentieth longer,
        # even if one of the axes has length 1.
        return mesh.by_rows(apply_to_rows, x, x.ndim - self.event_ndim)


class ConvEncoder(nn.Module):
    """Images `[B, H, W, C]` to features `[B, F]`, by one 3x3 convolution of stride 2 for each number of channels."""

    channels: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "B H W C"]) -> Float[Array, "B F"]:
        for i, width in enumerate(self.channels):
            x = self.activation(nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=f"conv_{i}")(x))
        return x.reshape(x.shape[0], -1)


class ConvDecoder(nn.Module):
    """Samples `[K, B, D]` to pixels `[K, B, H * W * C]`, by transposed convolutions of stride 2: the mirror image of
    `ConvEncoder`. `channels` are in the encoder's order."""

    channels: tuple[int, ...]
    image_shape: tuple[int, int, int]
    activation: Callable[[Array], Array] = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, z: Float[Array | np.ndarray, "K B D"]) -> Float[Array, "K B pixels"]:
        height, width, colours = self.image_shape
        sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(self.channels) + 1)][::-1]
        rows, columns = sizes[0]
        channels = self.channels[::-1]
        h = self.activation(nn.Dense(rows * columns * channels[0], dtype=self.dtype, name="project")(z))

        def apply_to_rows(h):
            h = h.reshape(len(h), rows, columns, channels[0])
            for i, size in enumerate(sizes[1:]):
                last = i == len(sizes) - 2
                features = colours if last else channels[i + 1]
                deconvolve = nn.ConvTranspose(features, (3, 3), strides=(2, 2), dtype=self.dtype, name=f"deconv_{i}")
                h = deconvolve(h)[:, : size[0], : size[1]]
                h = h if last else self.activation(h)
            return h.reshape(len(h), -1)

        return mesh.by_rows(apply_to_rows, h, h.ndim - 1)


class Architecture:
    """The networks of an encoder and a decoder.

    Attributes:
      name: the name in `ARCHITECTURES`.
      least_layers: the least number of layers in `hidden`.
    """

    name: ClassVar[str]
    least_layers: ClassVar[int] = 0

    def encoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        """Network from images `[B, H, W, C]` to features `[B, F]`.

        Args:
          hidden: widths of the layers, from the image to the latents.
          activation: function between the layers.
          image_shape: (H, W, C).
          dtype: dtype of the layers' products and activations; None for the dtype of the inputs.
        """
        raise NotImplementedError

    def decoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        """Network from samples `[K, B, D]` to pixels `[K, B, H * W * C]`; `hidden` is the same as the encoder's."""
        raise NotImplementedError


@dataclass(frozen=True)
class MLPArchitecture(Architecture):
    """Multilayer perceptrons; `hidden` are widths."""

    name: ClassVar[str] = "mlp"

    def encoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return MLP(hidden, activation, event_ndim=3, dtype=dtype)

    def decoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return MLP(hidden[::-1], activation, outputs=math.prod(image_shape), dtype=dtype)


@dataclass(frozen=True)
class ConvArchitecture(Architecture):
    """Convolutions of stride 2; `hidden` are numbers of channels, at least one."""

    name: ClassVar[str] = "conv"
    least_layers: ClassVar[int] = 1

    def encoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return ConvEncoder(hidden, activation, dtype)

    def decoder(self, hidden, activation, image_shape, dtype) -> nn.Module:
        return ConvDecoder(hidden, image_shape, activation, dtype)


ARCHITECTURES = Table(
    "architecture",
    {
        "mlp": MLPArchitecture,
        "conv": ConvArchitecture,
    },
)
add_architecture = ARCHITECTURES.add


@dataclass(frozen=True)
class LeakyReLU:
    """x where x is positive, else negative_slope * x. The papers on discrete latents use a slope of 0.3."""

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        if self.negative_slope < 0:
            raise ValueError(f"activation=leaky_relu needs a negative_slope of at least 0, got {self.negative_slope}")

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return nn.leaky_relu(x, self.negative_slope)


ACTIVATIONS = Table(
    "activation",
    {
        "relu": lambda: nn.relu,
        "tanh": lambda: nn.tanh,
        "leaky_relu": LeakyReLU,
        "gelu": lambda: nn.gelu,
    },
)
add_activation = ACTIVATIONS.add
