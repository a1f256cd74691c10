"""Priors p(z), and their table PRIORS. families.py says what a table of factories is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from vae.models.families import POSTERIORS, Posterior
from vae.table import Table


class PriorKind:
    """Where the distribution p(z) and its parameters come from.

    Attributes:
      name: the name in `PRIORS`.
    """

    name: ClassVar[str]

    def refusal(self, posterior: Posterior) -> str | None:
        """Why this prior does not go with the posterior, and what does; None where it does."""
        return None

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int) -> Any:
        """p(z), of batch_shape `[]`; `param(name, initializer, shape, dtype)` makes a parameter of the model."""
        raise NotImplementedError


@dataclass(frozen=True)
class StandardPrior(PriorKind):
    """Without learned parameters: standard normal, standard Laplace, Gamma(1, 1), uniform, fair coins or fair dice."""

    name: ClassVar[str] = "standard"

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int) -> Any:
        return posterior.standard_prior(latent_dim)


@dataclass(frozen=True)
class LearnedPrior(PriorKind):
    """A member of the posterior's family whose parameters are learned. Training begins at the standard prior."""

    name: ClassVar[str] = "learned"

    def refusal(self, posterior: Posterior) -> str | None:
        if posterior.has_own_prior:
            return None
        able = ", ".join(name for name, make in POSTERIORS.items() if make().has_own_prior)
        return (
            f"prior=learned does not go with posterior={posterior.name}, whose standard prior is of another "
            f"family; choose prior=standard, or a posterior of {able}"
        )

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int) -> Any:
        size = posterior.num_parameters(latent_dim)
        parameters = param("parameters", nn.initializers.zeros, (size,), jnp.float32)
        return posterior.distribution(parameters, latent_dim)


PRIORS = Table(
    "prior",
    {
        "standard": StandardPrior,
        "learned": LearnedPrior,
    },
)
add_prior = PRIORS.add
