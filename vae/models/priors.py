"""Priors p(z), and their table PRIORS. families.py says what a table of factories is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from vae import distributions as dist
from vae.models.families import POSTERIORS, Posterior
from vae.models.flows import require_positive
from vae.table import Table


class PriorKind:
    """Where the distribution p(z) and its parameters come from.

    Attributes:
      name: the name in `PRIORS`.
      reads_encoder: whether p(z) depends on the encoder; `distribution` then has two arguments more.
    """

    name: ClassVar[str]
    reads_encoder: ClassVar[bool] = False

    def refusal(self, posterior: Posterior) -> str | None:
        """Why this prior does not go with the posterior, and what does; None where it does."""
        return None

    @property
    def images_at_start(self) -> int:
        """The number of training images that the model's `init` should be given."""
        return 0

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int | tuple[int, ...]) -> Any:
        """p(z), of batch_shape `[]`; `param(name, initializer, shape, dtype)` makes a parameter of the model.

        With `reads_encoder`, it has the arguments `encode`, the function from images to q(z|x), and `images`, the
        images that the model's `init` is given, `[N, H, W, C]`; in other calls these are one blank image.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StandardPrior(PriorKind):
    """Without learned parameters: standard normal, standard Laplace, Gamma(1, 1), uniform, fair coins or fair dice."""

    name: ClassVar[str] = "standard"

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int | tuple[int, ...]) -> Any:
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

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int | tuple[int, ...]) -> Any:
        size = posterior.num_parameters(latent_dim)
        parameters = param("parameters", nn.initializers.zeros, (size,), jnp.float32)
        return posterior.distribution(parameters, latent_dim)


@dataclass(frozen=True)
class MixturePrior(PriorKind):
    """A mixture of members of the posterior's family with learned weights. It starts near the standard prior."""

    components: int = 10
    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        _require_components(self)

    def refusal(self, posterior: Posterior) -> str | None:
        return _refuse_without_density(self, posterior)

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int) -> dist.Mixture:
        shape = (self.components, posterior.num_parameters(latent_dim))
        parameters = param("parameters", nn.initializers.normal(0.5), shape, jnp.float32)
        logits = param("logits", nn.initializers.zeros, shape[:1], jnp.float32)
        return dist.Mixture(logits, posterior.distribution(parameters, latent_dim))


@dataclass(frozen=True)
class VampPrior(PriorKind):
    """The mean of the posteriors q(z|u_k) of learned pseudo-inputs u_k (Tomczak & Welling 2018, arXiv:1705.07120).

    Pseudo-inputs start at the images that the model's `init` is given, with noise of standard deviation 0.01, which
    tells copies apart where there are fewer images than pseudo-inputs.
    """

    components: int = 500
    name: ClassVar[str] = "vamp"
    reads_encoder: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_components(self)

    def refusal(self, posterior: Posterior) -> str | None:
        return _refuse_without_density(self, posterior)

    @property
    def images_at_start(self) -> int:
        return self.components

    def distribution(
        self,
        param: Callable[..., Array],
        posterior: Posterior,
        latent_dim: int,
        encode: Callable[[Array], Any],
        images: Float[Array | np.ndarray, "N H W C"],
    ) -> dist.Mixture:
        def copies(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            chosen = jnp.asarray(images, dtype)[jnp.arange(self.components) % len(images)]
            return chosen + 0.01 * jax.random.normal(key, shape, dtype)

        inputs = param("pseudo_inputs", copies, (self.components, *images.shape[1:]), jnp.float32)
        return dist.Mixture(jnp.zeros(self.components, jnp.float32), encode(inputs))


@dataclass(frozen=True)
class FlowPrior(PriorKind):
    """A normalizing flow of affine coupling layers over all real numbers; the options are those of `coupling`."""

    layers: int = 4
    hidden: int = 64
    name: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        require_positive(self, "prior")

    def refusal(self, posterior: Posterior) -> str | None:
        if posterior.num_blocks > 1:
            return _refuse_blocks(self, posterior)
        if isinstance(posterior.standard_prior(1), dist.Normal | dist.Laplace):
            return None
        others = "standard, learned or mixture" if posterior.has_own_prior else "standard or mixture"
        return (
            f"prior=flow is over all real numbers, and posterior={posterior.name} is not; choose prior={others}, or "
            "posterior=normal"
        )

    def distribution(self, param: Callable[..., Array], posterior: Posterior, latent_dim: int) -> dist.Flow:
        flow = self._flow()
        parameters = param("parameters", nn.initializers.zeros, (flow.num_parameters(latent_dim),), jnp.float32)
        return flow.distribution(parameters, latent_dim)

    def _flow(self) -> Posterior:
        return POSTERIORS.make("coupling", layers=self.layers, hidden=self.hidden)


PRIORS = Table(
    "prior",
    {
        "standard": StandardPrior,
        "learned": LearnedPrior,
        "mixture": MixturePrior,
        "vamp": VampPrior,
        "flow": FlowPrior,
    },
)
add_prior = PRIORS.add


def refusal(prior: PriorKind, posterior: Posterior) -> str | None:
    """Says why the prior does not go with the posterior, and which prior does; None if this one does."""
    if posterior.codes and prior.name != "standard":
        return f"posterior={posterior.name} has the uniform prior over codes; choose prior=standard"
    return prior.refusal(posterior)


def _refuse_without_density(prior: MixturePrior | VampPrior, posterior: Posterior) -> str | None:
    if posterior.num_blocks > 1:
        return _refuse_blocks(prior, posterior)
    if posterior.has_density:
        return None
    return (
        f"prior={prior.name} needs the density of a given z, which posterior={posterior.name} does not have; choose "
        "prior=standard, or another posterior"
    )


def _refuse_blocks(prior: PriorKind, posterior: Posterior) -> str:
    return f"prior={prior.name} needs one family, and posterior={posterior.name} has several blocks; choose " + (
        "prior=standard or learned" if posterior.has_own_prior else "prior=standard"
    )


def _require_components(prior: MixturePrior | VampPrior) -> None:
    if prior.components < 1:
        raise ValueError(f"prior={prior.name} needs at least one component, got {prior.components}")
