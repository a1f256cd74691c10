"""A posterior of independent blocks of different families: `categorical:categories=10+normal` on the command line."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae import distributions as dist
from vae.models.families import POSTERIORS, Parameters, Posterior
from vae.models.flows import FlowPosterior


@dataclass(frozen=True)
class ReadBlocks:
    """The function of a sample that flattens what the networks read of each block, and joins the blocks.

    Attributes:
      reads: the function of each block.
      event_ndims: the number of axes of an event of each block.
    """

    reads: tuple[Callable[[Array], Array], ...]
    event_ndims: tuple[int, ...]

    def __call__(self, z: tuple[Float[Array | np.ndarray, "..."], ...]) -> Float[Array, "*samples D"]:
        flat = [
            read(part).reshape(*part.shape[: part.ndim - event_ndim], -1)
            for read, event_ndim, part in zip(self.reads, self.event_ndims, z, strict=True)
        ]
        return jnp.concatenate(flat, axis=-1)


@dataclass(frozen=True)
class ProductPosterior(Posterior):
    """Independent blocks of different families. The argument `latent_dim` is a tuple with a number for each block.

    The prior is a product as well, whose blocks are the blocks' own priors. The decoder reads all blocks.

    Raises:
      ValueError: if there are fewer than two blocks, if several of them are flows, or if one has a codebook.
    """

    blocks: tuple[Posterior, ...]

    def __post_init__(self) -> None:
        if len(self.blocks) < 2:
            raise ValueError(f"a product needs two blocks or more, got {len(self.blocks)}")
        if sum(isinstance(block, FlowPosterior) for block in self.blocks) > 1:
            raise ValueError(f"posterior={self.name} has several flows; only one of the blocks can be a flow")
        if any(block.codebook() for block in self.blocks):
            raise ValueError(f"posterior={self.name} has a block with a codebook; choose fsq or categorical for codes")

    @property
    def name(self) -> str:
        return "+".join(block.name for block in self.blocks)

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def has_own_prior(self) -> bool:
        return all(block.has_own_prior for block in self.blocks)

    @property
    def has_density(self) -> bool:
        return all(block.has_density for block in self.blocks)

    @property
    def read(self) -> ReadBlocks:
        return ReadBlocks(tuple(block.read for block in self.blocks), tuple(block.event_ndim for block in self.blocks))

    @property
    def hard(self) -> "ProductPosterior | None":
        if not any(block.hard for block in self.blocks):
            return None
        return ProductPosterior(tuple(block.hard or block for block in self.blocks))

    def num_parameters(self, latent_dim: tuple[int, ...]) -> int:
        return sum(self._sizes(latent_dim))

    def distribution(self, parameters: Parameters, latent_dim: tuple[int, ...]) -> dist.Product:
        parts = jnp.split(parameters, np.cumsum(self._sizes(latent_dim))[:-1].tolist(), axis=-1)
        pairs = zip(self.blocks, parts, latent_dim, strict=True)
        return dist.Product(tuple(block.distribution(part, size) for block, part, size in pairs))

    def standard_prior(self, latent_dim: tuple[int, ...]) -> dist.Product:
        pairs = zip(self.blocks, latent_dim, strict=True)
        return dist.Product(tuple(block.standard_prior(size) for block, size in pairs))

    def _sizes(self, latent_dim: tuple[int, ...]) -> list[int]:
        return [block.num_parameters(size) for block, size in zip(self.blocks, latent_dim, strict=True)]


POSTERIORS.join = ProductPosterior
