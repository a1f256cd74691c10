"""Families of p(x|z), and their table LIKELIHOODS. families.py says what a table of factories is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae import distributions as dist
from vae.table import Table

Pixels = Float[Array, "K B pixels"]
# Several numbers for each pixel.
Outputs = Float[Array, "K B pixels outputs"]
Mean = Float[Array, "pixels"]

_identity = lambda x: x


class Likelihood:
    """A family of p(x|z), from one or several numbers for each pixel and, for some families, learned parameters.

    Attributes:
      name: the name in `LIKELIHOODS`.
      pixels: the pixels that the family is for: "binary", "grey levels", "counts", or "any", which are all in [0, 1].
      is_density: whether p(x|z) is a density of pixels in [0, 1], and not a probability of grey levels or counts.
    """

    name: ClassVar[str]
    pixels: ClassVar[str] = "any"
    is_density: ClassVar[bool] = False

    @property
    def read(self) -> Callable[[Array], Array]:
        """The function of x whose result the encoder's network reads. Counts are squashed like logs."""
        return jnp.arcsinh if self.pixels == "counts" else _identity

    def num_outputs(self, levels: int) -> int:
        """The number of the decoder network's outputs for each pixel, for data with so many grey levels."""
        return 1

    def at_mean(self, outputs: Pixels | Outputs, mean: Mean) -> Pixels | Outputs:
        """The outputs, shifted so that outputs of zero stand for the mean image, whose pixels are in (0, 1)."""
        return outputs + jnp.log(mean) - jnp.log1p(-mean)

    def distribution(self, param: Callable[..., Array], outputs: Pixels | Outputs, levels: int) -> Any:
        """p(x|z) over flat images.

        Args:
          param: `param(name, initializer, shape, dtype)` makes a parameter of the model.
          outputs: the decoder network's outputs, in (-inf, inf): `[K, B, pixels]`, or `[K, B, pixels, num_outputs]` if
            there are several for each pixel.
          levels: number of grey levels of a pixel.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BernoulliPixels(Likelihood):
    """Binary pixels; the outputs are their logits."""

    name: ClassVar[str] = "bernoulli"
    pixels: ClassVar[str] = "binary"

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.Bernoulli:
        return dist.Bernoulli(outputs)


# The shape of the Gaussian's learned log-scale, from the number of pixels, for each word of the option `scale`.
_SCALES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "pixel": lambda pixels: (pixels,),
    "global": lambda pixels: (1,),
}


@dataclass(frozen=True)
class GaussianPixels(Likelihood):
    """A Gaussian around the sigmoid of the outputs.

    Attributes:
      scale: "pixel", one learned scale for each pixel; "global", one learned scale; "fixed", a constant; "decoder", a
        scale for each pixel that is an output of the decoder.
      log_scale: the log of the scale, at the start or, if it is fixed, always. Pixels are in [0, 1].
    """

    scale: str = "pixel"
    log_scale: float = -1.0
    name: ClassVar[str] = "gaussian"
    is_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        words = (*_SCALES, "fixed", "decoder")
        if self.scale not in words:
            raise ValueError(f"likelihood=gaussian has no scale={self.scale}; choose one of {', '.join(words)}")

    def num_outputs(self, levels: int) -> int:
        return 2 if self.scale == "decoder" else 1

    def at_mean(self, outputs: Pixels | Outputs, mean: Mean) -> Pixels | Outputs:
        return _shift(outputs, mean, slice(1)) if self.scale == "decoder" else super().at_mean(outputs, mean)

    def distribution(self, param: Callable[..., Array], outputs: Pixels | Outputs, levels: int) -> dist.Normal:
        if self.scale == "decoder":
            return dist.Normal(nn.sigmoid(outputs[..., 0]), 2 * (self.log_scale + outputs[..., 1]))
        log_scale = jnp.full(outputs.shape, self.log_scale, outputs.dtype)
        if self.scale in _SCALES:
            log_scale = _log_scale(param, outputs, self.log_scale, _SCALES[self.scale](outputs.shape[-1]))
        return dist.Normal(nn.sigmoid(outputs), 2 * log_scale)


@dataclass(frozen=True)
class DiscretizedLogisticPixels(Likelihood):
    """A probability for each grey level: a logistic distribution around the sigmoid of the outputs, integrated over the
    level's bin, with one learned log-scale for each pixel."""

    name: ClassVar[str] = "discretized_logistic"
    pixels: ClassVar[str] = "grey levels"

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.DiscretizedLogistic:
        log_scale = _log_scale(param, outputs, -2.0, outputs.shape[-1:])
        return dist.DiscretizedLogistic(nn.sigmoid(outputs), log_scale, levels)


@dataclass(frozen=True)
class DiscretizedLogisticMixturePixels(Likelihood):
    """A probability for each grey level: a mixture of discretized logistics, all of whose numbers are outputs."""

    components: int = 5
    name: ClassVar[str] = "discretized_logistic_mixture"
    pixels: ClassVar[str] = "grey levels"

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"likelihood={self.name} needs at least one component, got {self.components}")

    def num_outputs(self, levels: int) -> int:
        return 3 * self.components

    def at_mean(self, outputs: Outputs, mean: Mean) -> Outputs:
        return _shift(outputs, mean, slice(self.components, 2 * self.components))

    def distribution(
        self, param: Callable[..., Array], outputs: Outputs, levels: int
    ) -> dist.DiscretizedLogisticMixture:
        logits, means, log_scale = jnp.split(outputs, 3, axis=-1)
        spread = jnp.linspace(-1, 1, self.components + 2, dtype=outputs.dtype)[1:-1]  # components start apart
        return dist.DiscretizedLogisticMixture(logits, nn.sigmoid(means + 2 * spread), log_scale - 2.0, levels)


@dataclass(frozen=True)
class CategoricalPixels(Likelihood):
    """A probability for each grey level, whose logits are the outputs: as many for each pixel as there are levels."""

    name: ClassVar[str] = "categorical"
    pixels: ClassVar[str] = "grey levels"

    def num_outputs(self, levels: int) -> int:
        if levels < 2:
            raise ValueError(f"likelihood=categorical needs grey levels, got levels={levels}")
        return levels

    def at_mean(self, outputs: Outputs, mean: Mean) -> Outputs:
        return outputs  # no logits belong to a mean

    def distribution(self, param: Callable[..., Array], outputs: Outputs, levels: int) -> dist.GreyLevels:
        return dist.GreyLevels(outputs)


@dataclass(frozen=True)
class PoissonPixels(Likelihood):
    """Counts; the outputs are the logs of their means up to e^5, and above it they grow more slowly."""

    name: ClassVar[str] = "poisson"
    pixels: ClassVar[str] = "counts"

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.Poisson:
        return dist.Poisson(_log_mean(outputs))


@dataclass(frozen=True)
class NegativeBinomialPixels(Likelihood):
    """Counts, as in `PoissonPixels`. Each pixel has one learned concentration, which starts at 1."""

    name: ClassVar[str] = "negative_binomial"
    pixels: ClassVar[str] = "counts"

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.NegativeBinomial:
        log_concentration = param("log_concentration", nn.initializers.zeros, outputs.shape[-1:], jnp.float32)
        return dist.NegativeBinomial(_log_mean(outputs), jnp.broadcast_to(log_concentration, outputs.shape))


LIKELIHOODS = Table(
    "likelihood",
    {
        "bernoulli": BernoulliPixels,
        "gaussian": GaussianPixels,
        "discretized_logistic": DiscretizedLogisticPixels,
        "discretized_logistic_mixture": DiscretizedLogisticMixturePixels,
        "categorical": CategoricalPixels,
        "poisson": PoissonPixels,
        "negative_binomial": NegativeBinomialPixels,
    },
)
add_likelihood = LIKELIHOODS.add


def _log_scale(
    param: Callable[..., Array], outputs: Pixels, initial: float, shape: tuple[int, ...]
) -> Float[Array, "K B pixels"]:
    log_scale = param("log_scale", nn.initializers.constant(initial), shape, jnp.float32)
    return jnp.broadcast_to(log_scale, outputs.shape)


def _log_mean(outputs: Pixels) -> Pixels:
    """The logs of the means of counts: the outputs up to 5, and 5 + log(1 + outputs - 5) above.

    An untrained network on large counts has outputs of hundreds, whose exponentials would overflow.
    """
    return jnp.minimum(outputs, 5.0) + jnp.log1p(jnp.maximum(outputs - 5.0, 0.0))


def _shift(outputs: Outputs, mean: Mean, locations: slice) -> Outputs:
    """The outputs, with the logits of the mean image added to those outputs of each pixel that are locations."""
    logits = jnp.log(mean) - jnp.log1p(-mean)
    return outputs.at[..., locations].add(logits[:, None])
