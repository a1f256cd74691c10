"""A Normal posterior that cannot become narrower than a chosen scale. Delete or replace this placeholder."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jaxtyping import Array, Float
from vae import models
from vae.distributions import Normal, add_kl
from vae.distributions import kl as divergence
from vae.distributions.base import LocationScale, Vectors, family


@family
class FlooredNormal(LocationScale):
    """Normal whose variance is exp(log_var) + least_scale^2.

    `LocationScale` has the reparameterization trick. A family of another form writes `rsample`, or only `sample`.
    """

    mean: Float[Array, "*batch D"]
    log_var: Float[Array, "*batch D"]
    least_scale: float = field(default=0.01, metadata={"static": True})
    noise = staticmethod(jax.random.normal)

    @property
    def scale(self) -> Float[Array, "*batch D"]:
        return jnp.exp(0.5 * jnp.logaddexp(self.log_var, 2 * jnp.log(self.least_scale)))

    def log_prob(self, z: Vectors) -> Float[Array, "*#samples"]:
        return jnp.sum(stats.norm.logpdf(z, self.mean, self.scale), axis=-1)


# The closed form of the divergence is optional; without it, train with --objective=elbo.
add_kl(FlooredNormal, Normal, lambda q, p: divergence(Normal(q.mean, 2 * jnp.log(q.scale)), p))


@dataclass(frozen=True)
class FlooredNormalPosterior(models.Posterior):
    """The family q(z|x), with the prior p(z). A field with a default is an option:
    --posterior=floored_normal:least_scale=0.1."""

    least_scale: float = 0.01
    name: ClassVar[str] = "floored_normal"
    has_own_prior: ClassVar[bool] = False  # the prior is the standard normal, whatever the floor

    def num_parameters(self, latent_dim: int) -> int:
        return 2 * latent_dim

    def distribution(self, parameters, latent_dim: int) -> FlooredNormal:
        return FlooredNormal(*jnp.split(parameters, 2, axis=-1), self.least_scale)

    def standard_prior(self, latent_dim: int) -> Normal:
        return Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
