"""Quantized latents as families of q(z|x), in the table POSTERIORS.

Each of the `latent_dim` positions has a code. `vq` and `fsq` choose it deterministically, and their decoder reads the
code itself. `stochastic_vq` draws it: q is a Categorical, to which all estimators for classes apply, and the decoder
reads the code of the class. The codebook of `vq` and `stochastic_vq` is one module, which the encoder shares with the
prior and the decoder. Its parameters are in the encoder's part of the model.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae import distributions as dist
from vae.distributions import quantized
from vae.models.families import POSTERIORS, Parameters, Posterior

# The most codes of `fsq`, whose prior holds them all.
MOST_CODES = 2**20

OneHots = Float[Array | np.ndarray, "*samples D C"]


class Codebook(nn.Module):
    """`size` code vectors of `width` numbers, `codes` `[C, W]`. A call turns one-hot vectors into code vectors."""

    size: int
    width: int

    def setup(self) -> None:
        self.codes = self.param("codes", nn.initializers.normal(1.0), (self.size, self.width), jnp.float32)

    def __call__(self, z: OneHots) -> Float[Array, "*samples D W"]:
        return jnp.matmul(z, self.codes, precision="highest")  # accelerators would round the codes


class Quantizer(Posterior):
    """A posterior over codes. It has one stochastic layer, and needs the uniform prior."""

    event_ndim: ClassVar[int] = 2
    has_own_prior: ClassVar[bool] = False


@dataclass(frozen=True)
class CodebookPosterior(Quantizer):
    """A posterior over the codes of a codebook that is learned. The encoder's outputs are D encodings of W numbers."""

    codes: int = 64
    width: int = 8

    def __post_init__(self) -> None:
        for option, least in (("codes", 2), ("width", 1)):
            if getattr(self, option) < least:
                raise ValueError(
                    f"posterior={self.name} needs {option} of at least {least}, got {getattr(self, option)}"
                )

    def codebook(self) -> Codebook:
        return Codebook(self.codes, self.width)

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim * self.width

    def encoding(self, parameters: Parameters, latent_dim: int) -> Float[Array, "*batch D W"]:
        return parameters.reshape(*parameters.shape[:-1], latent_dim, self.width)


@dataclass(frozen=True)
class VectorQuantizer(CodebookPosterior):
    """The nearest code, with certainty. `Quantized.loss` has the two losses whose weights are the options.

    Estimators that give the codebook a gradient of f, as `diveq` and `nsvq` do, need neither of the two losses.
    """

    codebook_loss: float = 1.0
    commitment_loss: float = 0.25
    name: ClassVar[str] = "vq"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("codebook_loss", "commitment_loss"):
            if not getattr(self, option) >= 0:
                raise ValueError(f"posterior=vq needs {option} of at least 0, got {getattr(self, option)}")

    def distribution(self, parameters: Parameters, latent_dim: int, codes: quantized.Codebook) -> dist.Quantized:
        encoding = self.encoding(parameters, latent_dim)
        return dist.Quantized(encoding, codes, self.codebook_loss, self.commitment_loss)

    def standard_prior(self, latent_dim: int, codes: quantized.Codebook) -> dist.UniformCodes:
        return dist.UniformCodes(codes, latent_dim)


@dataclass(frozen=True)
class StochasticVectorQuantizer(CodebookPosterior):
    """A code c with a probability proportional to exp(-|e - c|^2 / temperature)."""

    codes: int = 16
    width: int = 8
    temperature: float = 1.0
    name: ClassVar[str] = "stochastic_vq"
    reads_codebook: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"posterior={self.name} needs a temperature above 0, got {self.temperature}")

    def distribution(self, parameters: Parameters, latent_dim: int, codes: quantized.Codebook) -> dist.Categorical:
        return dist.Categorical(quantized.nearness(self.encoding(parameters, latent_dim), codes) / self.temperature)

    def standard_prior(self, latent_dim: int, codes: quantized.Codebook) -> dist.Categorical:
        return dist.Categorical(jnp.zeros((latent_dim, self.codes), jnp.float32))


@dataclass(frozen=True)
class ScalarQuantizer(Quantizer):
    """W numbers at each position, the i-th rounded to L_i levels; `levels` is "L_1-L_2-...-L_W"."""

    levels: str = "8-5-5-5"
    name: ClassVar[str] = "fsq"

    def __post_init__(self) -> None:
        parts = self.levels.split("-")
        if not all(part.isdecimal() and int(part) >= 2 for part in parts):
            raise ValueError(f"posterior=fsq needs levels such as 8-5-5-5, each 2 or more, got {self.levels}")
        if self.codes > MOST_CODES:
            raise ValueError(
                f"posterior=fsq has {self.codes} codes with levels={self.levels}, more than {MOST_CODES}; choose fewer"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.levels.split("-"))

    @property
    def codes(self) -> int:
        return math.prod(self.counts)

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim * len(self.counts)

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.Rounded:
        levels = np.asarray(self.counts, np.float32)
        # As in the code of the paper, tanh ends just inside the outer levels. An even count of levels is not symmetric:
        # there the tanh is half a step lower, and is shifted so that outputs of zero are near the level 0.
        reach = np.float32(1 - 1e-3) * (levels - 1) / 2
        offset = np.where(levels % 2 == 0, np.float32(0.5), np.float32(0))
        raw = parameters.reshape(*parameters.shape[:-1], latent_dim, len(levels))
        bounded = reach * jnp.tanh(raw + np.tan(offset / reach)) - offset
        return dist.Rounded(bounded / (levels // 2), self.counts)

    def standard_prior(self, latent_dim: int) -> dist.UniformCodes:
        return dist.UniformCodes(quantized.grid(self.counts), latent_dim)


for _posterior in (VectorQuantizer, ScalarQuantizer, StochasticVectorQuantizer):
    POSTERIORS.add(_posterior.name, _posterior)


def refuse_layers(posterior: Posterior, layers: int) -> str | None:
    """Why the posterior cannot have so many stochastic layers, and what it can have; None if it can."""
    if isinstance(posterior, Quantizer) and layers > 1:
        return f"posterior={posterior.name} needs one stochastic layer; give latent_dim one number"
    return None
