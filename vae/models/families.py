"""Families of q(z|x), whose parameters are the outputs of a network, and their table POSTERIORS.

The table maps a name to a factory. The factory's keyword arguments are the options of the name:
`POSTERIORS.make("categorical", categories=8)`. Factories return frozen dataclasses, so that equal options give equal
models, and equal models are compiled once.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae import distributions as dist
from vae.table import Table

Parameters = Float[Array | np.ndarray, "*batch parameters"]

_identity = lambda z: z
_sign = lambda z: 2 * z - 1  # bits 0 and 1 become -1 and 1
_relaxed_sign = lambda z: jnp.tanh(z / 2)  # the same for a relaxed bit, by its logits


class Posterior:
    """A family of approximate posteriors q(z|x).

    Attributes:
      name: the name in `POSTERIORS`.
      event_ndim: number of axes of a sample's event: 2 for one-hot vectors `[D, C]`, else 1.
      has_own_prior: whether the standard prior is a member of the family, so that a prior can be learned.
      heavy_tailed: whether the tails are heavier than those of a normal distribution.
      has_density: whether log q(z) can be computed for a given z, and not only for samples as they are drawn.
      num_blocks: number of blocks of different families; `latent_dim` is a tuple where there are several.
      codes: the number of codes of quantized latents; 0 for all other families.
      reads_codebook: whether samples are one-hot vectors, whose code vectors the decoder reads.
    """

    name: ClassVar[str]
    event_ndim: ClassVar[int] = 1
    has_own_prior: ClassVar[bool] = True
    heavy_tailed: bool = False
    has_density: ClassVar[bool] = True
    num_blocks: ClassVar[int] = 1
    codes: int = 0
    reads_codebook: ClassVar[bool] = False

    def codebook(self) -> nn.Module | None:
        """The module with the code vectors `codes` `[C, W]`, if there are any to learn.

        `distribution` and `standard_prior` of such a family have `codes` as their last argument.
        """
        return None

    @property
    def read(self) -> Callable[[Array], Array]:
        """The function of a sample whose result the networks take as input.

        A function of this module and not a bound method, so that equal posteriors give equal models.
        """
        return _identity

    @property
    def read_between_layers(self) -> Callable[[Array], Array]:
        """The function of a sample whose result the networks between two stochastic layers take as input.

        Heavy tails are squashed. The networks' outputs include logs of scales, so that one large sample of a layer
        would make the next layer explode.
        """
        return jnp.arcsinh if self.heavy_tailed else self.read

    @property
    def hard(self) -> "Posterior | None":
        """For a relaxation, the discrete posterior that replaces it in evaluation; None for all other families."""
        return None

    @property
    def layer_prior(self) -> "Posterior":
        """The family of p(z_l | z_(l+1)), where there are several stochastic layers."""
        return self

    def num_parameters(self, latent_dim: int) -> int:
        """Length of the flat vector that holds the parameters of `latent_dim` latent variables."""
        raise NotImplementedError

    def distribution(self, parameters: Parameters, latent_dim: int) -> Any:
        """The distribution whose parameters are the flat vector `[*batch, num_parameters]`.

        The encoder calls this in its compact method. A family that learns more than the encoder's outputs, such as a
        flow, can make linen modules here.
        """
        raise NotImplementedError

    def standard_prior(self, latent_dim: int) -> Any:
        """The prior without learned parameters: the family itself at parameters of zero."""
        return self.distribution(jnp.zeros(self.num_parameters(latent_dim), jnp.float32), latent_dim)


@dataclass(frozen=True)
class Factorized(Posterior):
    """A family of independent latent variables, with one number for each field of the distribution's class."""

    name: str
    family: type
    heavy_tailed: bool = False

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim * len(dataclasses.fields(self.family))

    def distribution(self, parameters: Parameters, latent_dim: int) -> Any:
        return self.family(*_split(parameters, latent_dim))


@dataclass(frozen=True)
class FullCovariance(Posterior):
    """A Gaussian with D means, D log-variances, and the strictly lower triangle of a factor with ones on its diagonal.

    The factor's rows are scaled by the standard deviations, so that a narrow posterior needs no small outputs. The
    triangle is divided by D, so that a network's first outputs, of order 1, hardly correlate. Without this scaling and
    division, the encoder learns far less in the same time. Zeros give the standard normal, which is the prior.
    """

    name: ClassVar[str] = "full_covariance"
    has_own_prior: ClassVar[bool] = False

    def num_parameters(self, latent_dim: int) -> int:
        return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.MultivariateNormal:
        mean, log_var, lower = jnp.split(parameters, [latent_dim, 2 * latent_dim], axis=-1)
        shape = (*parameters.shape[:-1], latent_dim, latent_dim)
        factor = jnp.broadcast_to(jnp.eye(latent_dim, dtype=parameters.dtype), shape)
        factor = factor.at[..., *jnp.tril_indices(latent_dim, -1)].set(lower / latent_dim)
        return dist.MultivariateNormal(mean, jnp.exp(0.5 * log_var)[..., None] * factor)

    def standard_prior(self, latent_dim: int) -> dist.Normal:
        return standard_normal(latent_dim)


@dataclass(frozen=True)
class LowRank(Posterior):
    """A Gaussian whose covariance is a diagonal plus a matrix of the given rank R.

    The factor's D x R numbers are scaled by the standard deviations of the diagonal part and divided by D, for the
    reasons that `FullCovariance` gives. Zeros give the standard normal, which is the prior.
    """

    rank: int = 1
    name: ClassVar[str] = "low_rank"
    has_own_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"posterior={self.name} needs a positive rank, got {self.rank}")

    def num_parameters(self, latent_dim: int) -> int:
        if self.rank > latent_dim:
            raise ValueError(
                f"posterior={self.name} needs a rank of at most latent_dim={latent_dim}, got {self.rank}; choose a "
                "smaller rank, or posterior=full_covariance"
            )
        return (2 + self.rank) * latent_dim

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.LowRankNormal:
        mean, log_var, factor = jnp.split(parameters, [latent_dim, 2 * latent_dim], axis=-1)
        factor = factor.reshape(*mean.shape, self.rank) / latent_dim
        return dist.LowRankNormal(mean, log_var, jnp.exp(0.5 * log_var)[..., None] * factor)

    def standard_prior(self, latent_dim: int) -> dist.Normal:
        return standard_normal(latent_dim)


@dataclass(frozen=True)
class MixtureOfNormals(Posterior):
    """A mixture of factorized Gaussians, whose weights, means and log-variances are all outputs of the encoder.

    Zeros give the standard normal, which is the prior.
    """

    components: int = 2
    name: ClassVar[str] = "mixture_of_normals"
    has_own_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"posterior={self.name} needs at least one component, got {self.components}")

    def num_parameters(self, latent_dim: int) -> int:
        return (2 * latent_dim + 1) * self.components

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.MixtureOfNormals:
        size = latent_dim * self.components
        means, log_vars, logits = jnp.split(parameters, [size, 2 * size], axis=-1)
        by_component = lambda leaf: leaf.reshape(*leaf.shape[:-1], self.components, latent_dim)
        return dist.MixtureOfNormals(by_component(means), by_component(log_vars), logits)

    def standard_prior(self, latent_dim: int) -> dist.Normal:
        return standard_normal(latent_dim)


@dataclass(frozen=True)
class StudentT(Posterior):
    """Student's t, whose prior is the standard normal."""

    name: ClassVar[str] = "student_t"
    has_own_prior: ClassVar[bool] = False
    heavy_tailed: ClassVar[bool] = True

    def num_parameters(self, latent_dim: int) -> int:
        return 3 * latent_dim

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.StudentT:
        mean, log_scale, log_df = _split(parameters, latent_dim)
        return dist.StudentT(mean, log_scale, 2.0 + log_df)  # near 7 degrees of freedom at first: a finite variance

    def standard_prior(self, latent_dim: int) -> dist.Normal:
        return standard_normal(latent_dim)


@dataclass(frozen=True)
class Bernoulli(Posterior):
    """Bits. With `signed`, networks read -1 and 1 instead of 0 and 1."""

    signed: bool = False
    name: ClassVar[str] = "bernoulli"

    @property
    def read(self) -> Callable[[Array], Array]:
        return _sign if self.signed else _identity

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.Bernoulli:
        return dist.Bernoulli(parameters)


@dataclass(frozen=True)
class BinaryConcrete(Posterior):
    """Relaxed bits, at a temperature. With `signed`, networks read numbers between -1 and 1 instead of 0 and 1."""

    temperature: float = 2 / 3
    signed: bool = False
    name: ClassVar[str] = "binary_concrete"

    def __post_init__(self) -> None:
        _require_temperature(self)

    @property
    def read(self) -> Callable[[Array], Array]:
        return _relaxed_sign if self.signed else nn.sigmoid

    @property
    def hard(self) -> Bernoulli:
        return Bernoulli(signed=self.signed)

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.BinaryConcrete:
        return dist.BinaryConcrete(parameters, self.temperature)


@dataclass(frozen=True)
class Categorical(Posterior):
    """One-hot vectors of C `categories`."""

    categories: int = 10
    name: ClassVar[str] = "categorical"
    event_ndim: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _require_categories(self)

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim * self.categories

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.Categorical:
        return dist.Categorical(parameters.reshape(*parameters.shape[:-1], latent_dim, self.categories))


@dataclass(frozen=True)
class Concrete(Posterior):
    """Relaxed one-hot vectors of C `categories`, at a temperature."""

    categories: int = 10
    temperature: float = 2 / 3
    name: ClassVar[str] = "concrete"
    event_ndim: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _require_categories(self)
        _require_temperature(self)

    @property
    def read(self) -> Callable[[Array], Array]:
        return jnp.exp

    @property
    def hard(self) -> Categorical:
        return Categorical(categories=self.categories)

    def num_parameters(self, latent_dim: int) -> int:
        return latent_dim * self.categories

    def distribution(self, parameters: Parameters, latent_dim: int) -> dist.ExpConcrete:
        logits = parameters.reshape(*parameters.shape[:-1], latent_dim, self.categories)
        return dist.ExpConcrete(logits, self.temperature)


POSTERIORS = Table(
    "posterior",
    {
        "normal": lambda: Factorized("normal", dist.Normal),
        "full_covariance": FullCovariance,
        "low_rank": LowRank,
        "mixture_of_normals": MixtureOfNormals,
        "laplace": lambda: Factorized("laplace", dist.Laplace, heavy_tailed=True),
        "student_t": StudentT,
        "gamma": lambda: Factorized("gamma", dist.Gamma, heavy_tailed=True),
        "beta": lambda: Factorized("beta", dist.Beta),
        "dirichlet": lambda: Factorized("dirichlet", dist.Dirichlet),
        "bernoulli": Bernoulli,
        "categorical": Categorical,
        "poisson": lambda: Factorized("poisson", dist.Poisson, heavy_tailed=True),
        "binary_concrete": BinaryConcrete,
        "concrete": Concrete,
    },
)
add_posterior = POSTERIORS.add


def _require_categories(posterior: Categorical | Concrete) -> None:
    if posterior.categories < 2:
        raise ValueError(f"posterior={posterior.name} needs at least two categories, got {posterior.categories}")


def _require_temperature(posterior: BinaryConcrete | Concrete) -> None:
    if not posterior.temperature > 0:
        raise ValueError(f"posterior={posterior.name} needs a temperature above 0, got {posterior.temperature}")


def _split(flat: Parameters, size: int) -> list[Array]:
    return jnp.split(flat, flat.shape[-1] // size, axis=-1)


def standard_normal(latent_dim: int) -> dist.Normal:
    """The standard normal in `latent_dim` dimensions, of batch_shape `[]`."""
    zeros = jnp.zeros(latent_dim, jnp.float32)
    return dist.Normal(zeros, zeros)
