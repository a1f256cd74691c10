"""Posteriors on the sphere |z| = 1, in the table POSTERIORS."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from vae import distributions as dist
from vae.models.families import POSTERIORS, Parameters, Posterior


@dataclass(frozen=True)
class OnSphere(Posterior):
    """A family around a mean direction, whose prior is uniform on the sphere.

    The encoder's outputs are a vector in this direction and log(concentration / D), so that training begins at a
    concentration of about D.
    """

    name: str
    family: type
    has_own_prior: bool = False

    def num_parameters(self, latent_dim: int) -> int:
        if latent_dim < 2:
            raise ValueError(f"posterior={self.name} needs a latent_dim of at least 2, got {latent_dim}")
        return latent_dim + 1

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.PowerSpherical | dist.VonMisesFisher:
        location, log_concentration = jnp.split(parameters, [latent_dim], axis=-1)
        return self.family(location, log_concentration + math.log(latent_dim))

    def standard_prior(self, latent_dim: int) -> dist.UniformOnSphere:
        return dist.UniformOnSphere(latent_dim)


POSTERIORS.add("power_spherical", lambda: OnSphere("power_spherical", dist.PowerSpherical))
POSTERIORS.add("von_mises_fisher", lambda: OnSphere("von_mises_fisher", dist.VonMisesFisher))
