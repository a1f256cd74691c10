"""Normalizing flows as families of q(z|x), in the table POSTERIORS.

T of z = location + scale * T(eps) is conditioned on a context, which the encoder outputs for each datum. The weights of
T's networks are parameters of the encoder. `vae.distributions.Flow` says how the distribution holds them.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vae import distributions as dist
from vae.distributions import flows
from vae.models.families import POSTERIORS, Parameters, Posterior, standard_normal


class FlowPosterior(Posterior):
    """A normalizing flow. The encoder's outputs are D locations, D log-variances, and the context of the flow."""

    has_own_prior: ClassVar[bool] = False

    @property
    def layer_prior(self) -> Posterior:
        return POSTERIORS.make("normal")

    def context_size(self, latent_dim: int) -> int:
        raise NotImplementedError

    def transform(self, latent_dim: int, **parent: Any) -> nn.Module:
        """The linen module T; `parent=None` makes an unbound one inside of another module."""
        raise NotImplementedError

    def num_parameters(self, latent_dim: int) -> int:
        return 2 * latent_dim + self.context_size(latent_dim)

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.Flow:
        location, log_var, context = jnp.split(parameters, [latent_dim, 2 * latent_dim], axis=-1)
        module = self.transform(latent_dim, name="flow")
        if module.is_initializing():
            module(location, context)
        return dist.Flow(location, log_var / 2, context, module.variables, self.transform(latent_dim, parent=None))

    def standard_prior(self, latent_dim: int) -> dist.Normal:
        return standard_normal(latent_dim)


@dataclass(frozen=True)
class LayeredFlow(FlowPosterior):
    """Layers that each have a network with `hidden` units in one hidden layer; the context has `hidden` numbers."""

    layers: int = 4
    hidden: int = 64

    def __post_init__(self) -> None:
        require_positive(self)

    def layer(self, latent_dim: int) -> nn.Module:
        """One layer, unbound."""
        raise NotImplementedError

    def context_size(self, latent_dim: int) -> int:
        return self.hidden

    def transform(self, latent_dim: int, **parent: Any) -> nn.Module:
        return flows.Layers(tuple(self.layer(latent_dim) for _ in range(self.layers)), **parent)


@dataclass(frozen=True)
class Coupling(LayeredFlow):
    """Affine coupling layers."""

    name: ClassVar[str] = "coupling"

    def layer(self, latent_dim: int) -> nn.Module:
        return flows.Coupling(latent_dim, self.hidden, parent=None)


@dataclass(frozen=True)
class SplineCoupling(LayeredFlow):
    """Coupling layers whose functions are rational-quadratic splines of `bins` pieces."""

    bins: int = 8
    name: ClassVar[str] = "spline_coupling"

    def layer(self, latent_dim: int) -> nn.Module:
        return flows.Coupling(latent_dim, self.hidden, flows.Spline(self.bins), parent=None)


@dataclass(frozen=True)
class InverseAutoregressive(LayeredFlow):
    """Inverse autoregressive layers: fast samples, and D steps for log q(z) of a given z."""

    name: ClassVar[str] = "iaf"

    def layer(self, latent_dim: int) -> nn.Module:
        return flows.Autoregressive(latent_dim, self.hidden, parent=None)


@dataclass(frozen=True)
class Planar(FlowPosterior):
    """Planar layers, whose parameters are the encoder's outputs."""

    layers: int = 4
    name: ClassVar[str] = "planar"
    has_density: ClassVar[bool] = False
    heavy_tailed: ClassVar[bool] = True  # the encoder's outputs u have no bound, and those of a layer depend on samples

    def __post_init__(self) -> None:
        require_positive(self)

    def context_size(self, latent_dim: int) -> int:
        return self.layers * (2 * latent_dim + 1)

    def transform(self, latent_dim: int, **parent: Any) -> nn.Module:
        return flows.Planar(self.layers, **parent)


for _posterior in (Coupling, SplineCoupling, InverseAutoregressive, Planar):
    POSTERIORS.add(_posterior.name, _posterior)


def require_positive(choice: Any, setting: str = "posterior") -> None:
    """Raises a ValueError with the name of the setting if an option of the choice is below 1."""
    for option in dataclasses.fields(choice):
        number = getattr(choice, option.name)
        if number < 1:
            raise ValueError(f"{setting}={choice.name} needs a positive number of {option.name}, got {number}")
