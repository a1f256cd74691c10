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


class Likelihood:
    """A family of p(x|z), from one number for each pixel and, for some families, learned parameters of its own.

    Attributes:
      name: the name in `LIKELIHOODS`.
      pixels: the pixels that the family is for: "binary", "grey levels" or "any".
      is_density: whether p(x|z) is a density of pixels in [0, 1], and not a probability of grey levels.
    """

    name: ClassVar[str]
    pixels: ClassVar[str] = "any"
    is_density: ClassVar[bool] = False

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> Any:
        """p(x|z) over flat images.

        Args:
          param: `param(name, initializer, shape, dtype)` makes a parameter of the model.
          outputs: the decoder network's outputs `[K, B, pixels]`, in (-inf, inf).
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


@dataclass(frozen=True)
class GaussianPixels(Likelihood):
    """A Gaussian around the sigmoid of the outputs, with one learned log-scale for each pixel."""

    name: ClassVar[str] = "gaussian"
    is_density: ClassVar[bool] = True

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.Normal:
        log_scale = _log_scale(param, outputs, initial=-1.0)
        return dist.Normal(nn.sigmoid(outputs), 2 * log_scale)


@dataclass(frozen=True)
class DiscretizedLogisticPixels(Likelihood):
    """A probability for each grey level: a logistic distribution around the sigmoid of the outputs, integrated over the
    level's bin, with one learned log-scale for each pixel."""

    name: ClassVar[str] = "discretized_logistic"
    pixels: ClassVar[str] = "grey levels"

    def distribution(self, param: Callable[..., Array], outputs: Pixels, levels: int) -> dist.DiscretizedLogistic:
        log_scale = _log_scale(param, outputs, initial=-2.0)
        return dist.DiscretizedLogistic(nn.sigmoid(outputs), log_scale, levels)


LIKELIHOODS = Table(
    "likelihood",
    {
        "bernoulli": BernoulliPixels,
        "gaussian": GaussianPixels,
        "discretized_logistic": DiscretizedLogisticPixels,
    },
)
add_likelihood = LIKELIHOODS.add


def _log_scale(param: Callable[..., Array], outputs: Pixels, initial: float) -> Float[Array, "K B pixels"]:
    log_scale = param("log_scale", nn.initializers.constant(initial), outputs.shape[-1:], jnp.float32)
    return jnp.broadcast_to(log_scale, outputs.shape)
