"""A Normal posterior that cannot become narrower than a chosen scale. Delete or replace this placeholder."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from vae import models
from vae.distributions import Normal


@dataclass(frozen=True)
class FlooredNormal(models.Posterior):
    """Normal whose variance is exp(log_var) + least_scale^2.

    A field with a default is an option: --posterior=floored_normal:least_scale=0.1. For a distribution of your own in
    place of Normal, see "a posterior" in vae/README.md.
    """

    least_scale: float = 0.01
    name: ClassVar[str] = "floored_normal"
    has_own_prior: ClassVar[bool] = False  # the prior is the standard normal, whatever the floor

    def num_parameters(self, latent_dim: int) -> int:
        return 2 * latent_dim

    def distribution(self, parameters, latent_dim: int) -> Normal:
        mean, log_var = jnp.split(parameters, 2, axis=-1)
        return Normal(mean, jnp.logaddexp(log_var, 2 * jnp.log(self.least_scale)))

    def standard_prior(self, latent_dim: int) -> Normal:
        return Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
