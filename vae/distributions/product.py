"""Independent blocks of different families, such as a class and a Gaussian."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import event_shape, family

Samples = tuple[Float[Array, "..."], ...]  # one array for each block


@family
class Product:
    """Independent blocks of different families. A sample is the tuple of the blocks' samples.

    `rsample` and `rsample_and_log_prob` exist only if every block has them.

    Attributes:
      blocks: distributions of the same batch_shape.
    """

    blocks: tuple
    factorized = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.blocks[0].batch_shape

    @property
    def event_shape(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the blocks' events."""
        return tuple(event_shape(block) for block in self.blocks)

    @property
    def has_density(self) -> bool:
        return all(getattr(block, "has_density", True) for block in self.blocks)

    @property
    def rsample(self) -> Callable[[PRNGKeyArray, int], Samples]:
        methods = [block.rsample for block in self.blocks]
        return lambda key, num_samples: _draw(methods, key, num_samples)

    @property
    def rsample_and_log_prob(self) -> Callable[[PRNGKeyArray, int], tuple[Samples, Array]]:
        methods = [block.rsample_and_log_prob for block in self.blocks]

        def draw(key: PRNGKeyArray, num_samples: int):
            z, log_q = zip(*_draw(methods, key, num_samples), strict=True)
            return z, sum(log_q)

        return draw

    def rsample_and_density(self, key: PRNGKeyArray, num_samples: int) -> tuple[Samples, Callable[[tuple], Array]]:
        """A sample, and log q as a function that holds q; see `vae.estimators.tools.rsample_and_density`."""
        by_log_prob = lambda block: lambda key, num: (block.rsample(key, num), jax.lax.stop_gradient(block).log_prob)
        methods = [getattr(block, "rsample_and_density", by_log_prob(block)) for block in self.blocks]
        z, densities = zip(*_draw(methods, key, num_samples), strict=True)
        return z, lambda z: sum(density(part) for density, part in zip(densities, z, strict=True))

    @property
    def with_path(self) -> Callable[[Samples], Samples]:
        """A method that exists only if every block has it; see `base.Invertible`."""
        methods = [block.with_path for block in self.blocks]
        return lambda z: tuple(method(part) for method, part in zip(methods, z, strict=True))

    @property
    def is_deterministic(self) -> bool:
        """Whether a block is one deterministic code, in which log q(z) has no derivative."""
        return any(getattr(block, "is_deterministic", False) for block in self.blocks)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Samples:
        return _draw([block.sample for block in self.blocks], key, num_samples)

    def log_prob(self, z: tuple) -> Float[Array, "*samples"]:
        return sum(block.log_prob(part) for block, part in zip(self.blocks, z, strict=True))

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    def layer(self, index: int, before: Any = None) -> Any:
        """The distribution of a block, which does not depend on the block before; `Markov` has the same method."""
        del before
        return self.blocks[index]

    def layer_means(self, key: PRNGKeyArray, num_samples: int) -> Samples:
        """E[z] of each block, `[*batch, *event]`: an average over samples for a family without a `mean`."""
        average = lambda block: jnp.mean(block.sample(key, num_samples), axis=0)
        return tuple(block.mean if hasattr(block, "mean") else average(block) for block in self.blocks)


def _draw(methods: Sequence[Callable], key: PRNGKeyArray, num_samples: int) -> tuple:
    """The result of a method of each block, each with a key of its own."""
    keys = jax.random.split(key, len(methods))
    return tuple(method(block_key, num_samples) for method, block_key in zip(methods, keys, strict=True))
