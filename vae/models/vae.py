"""The VAE: an encoder q(z|x), a decoder p(x|z) and a prior p(z), as Flax linen modules.

    posterior = POSTERIORS.make("normal")
    encoder = Encoder(MLP((500,), event_ndim=3), latent_dim=20, posterior=posterior)
    decoder = Decoder(MLP((500,), outputs=784))
    model = VAE(encoder, decoder, Prior(latent_dim=20, posterior=posterior))
    params = model.init(key, x, key)
    q = model.apply(params, x, method="encode")  # q(z|x), a distribution of batch_shape [B]

The modules are deterministic functions of their parameters: the noise of a sample comes from a key that is an argument.
Images x are `[B, H, W, C]` in [0, 1]; samples z are `[K, B, D]`, and a tuple of such arrays where there are several
stochastic layers or blocks; log-densities are in nats and summed over the event.

Networks compute in their `dtype` (None: the dtype of their inputs), as Flax's layers do. Parameters are float32, and so
is everything that follows the networks' outputs: distributions, log-densities and bounds.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from vae import distributions as dist
from vae.models.families import POSTERIORS, Posterior
from vae.models.likelihoods import LIKELIHOODS, Likelihood
from vae.models.priors import PRIORS, PriorKind

Images = Float[Array | np.ndarray, "B ..."]  # [B, H, W, C]
# [K, B, D], or [K, B, D, C] for one-hot vectors; a tuple of such arrays where there are several layers or blocks.
Samples = Float[Array | np.ndarray, "K B ..."] | tuple[Float[Array | np.ndarray, "K B ..."], ...]


class VAE(nn.Module):
    """The joint density p(z) p(x|z) and the approximate posterior q(z|x).

    Attributes:
      encoder: module that maps x `[B, H, W, C]` to q(z|x), a distribution of batch_shape `[B]`. An encoder whose
        attribute `reads_prior` is true takes p(z) too, as a second argument.
      decoder: module that maps z `[K, B, D]` to p(x|z), a distribution over flat images of batch_shape `[K, B]`.
      prior: module without inputs that gives p(z), a distribution of batch_shape `[]`. A prior whose attribute
        `reads_encoder` is true takes the encoder and the images that `init` is given, or None.
    """

    encoder: nn.Module
    decoder: nn.Module
    prior: nn.Module

    @property
    def has_codes(self) -> bool:
        """Whether the latents are quantized: all positions choose from one set of codes."""
        return bool(getattr(self.encoder, "posterior", Posterior()).codes)

    def __call__(self, x: Images, key: PRNGKeyArray, num_samples: int = 1):
        """Encodes x, draws samples with `key` and decodes them: p(x|z) of batch_shape `[K, B]`."""
        self._prior(x)
        return self.decoder(self.encode(x).sample(key, num_samples))

    def check_images(self, x: Array | np.ndarray) -> None:
        """Refuses images that the likelihood cannot have, if their values are known. Evaluations call it.

        Raises:
          ValueError: if counts are below 0, or if other pixels are not in [0, 1] and the likelihood is no density.
        """
        likelihood = getattr(self.decoder, "likelihood", None)
        if likelihood is None or likelihood.is_density or isinstance(x, jax.core.Tracer) or not x.size:
            return
        pixels = np.asarray(x)  # jax.numpy would trace the values of constants
        low, high = pixels.min(), pixels.max()
        if likelihood.pixels == "counts" and not low >= 0:
            raise ValueError(f"images have values from {low} to {high}; counts must be at least 0")
        if likelihood.pixels != "counts" and not (low >= 0 and high <= 1):
            raise ValueError(
                f"images have values from {low} to {high}; floats must be 0 to 1; vae.data.pixels(x, levels) makes such"
                " floats of uint8 grey levels"
            )

    def encode(self, x: Shaped[Array | np.ndarray, "B ..."]):
        """q(z|x), of batch_shape `[B]`.

        Raises:
          ValueError: if x has no floats, but the grey levels of a file, say.
        """
        _check_floats(x)
        return self.encoder(x, self._prior()) if getattr(self.encoder, "reads_prior", False) else self.encoder(x)

    def decode(self, z: Samples):
        """p(x|z), a distribution over flat images that has the batch_shape of z."""
        return self.decoder(z)

    def prior_distribution(self):
        """p(z), of batch_shape `[]`."""
        return self._prior()

    def log_likelihood(self, x: Shaped[Array | np.ndarray, "B ..."], z: Samples) -> Float[Array, "K B"]:
        """log p(x|z).

        Raises:
          ValueError: if x has no floats, or another number of pixels than the model.
        """
        _check_floats(x)
        pixels = getattr(self.decoder, "pixels", 0)
        if pixels and math.prod(x.shape[1:]) != pixels:
            raise ValueError(f"the model is for images of {pixels} numbers, and x has the shape {list(x.shape)}")
        return self.decoder(z).log_prob(x.reshape(x.shape[0], -1))

    def kl_to_prior(self, q: Any, per_dimension: bool = False) -> Float[Array, "B"] | Float[Array, "B D"]:
        """KL(q(z|x) || p(z)) in closed form, `[B]`, or of each latent dimension, `[B, D]`.

        Raises:
          ValueError: if `per_dimension` is set and the posterior does not factorize over its dimensions.
          NotImplementedError: if the KL has no closed form.
        """
        if not per_dimension:
            return dist.kl(q, self._prior())
        if not getattr(q, "factorized", True):
            raise ValueError(
                f"free_bits needs a posterior with independent dimensions, which {type(q).__name__} lacks; leave out"
                " free_bits, or choose posterior=normal"
            )
        # The latent dimensions become a batch axis: each is a distribution of its own, with an event of length 1.
        axis = len(q.batch_shape) - jax.tree.leaves(q)[0].ndim  # -1, or -2 for one-hot vectors
        split = lambda d: jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), d)
        return dist.kl(split(q), split(self._prior()))

    def _prior(self, images: Images | None = None) -> Any:
        return self.prior(self.encoder, images) if getattr(self.prior, "reads_encoder", False) else self.prior()


def _check_floats(x: Array | np.ndarray) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"images must be floats, got {x.dtype}; vae.data.pixels(x, levels) turns grey levels into floats from 0 to"
            " 1, and int32 counts into floats"
        )


class Encoder(nn.Module):
    """q(z|x): a network, and a linear map from its features to the parameters of the posterior.

    Attributes:
      network: module that maps x `[B, H, W, C]` to features `[B, F]`.
      latent_dim: D, the number of latent variables; of each block, if the posterior has several.
      posterior: the family of q(z|x), made by a factory of `POSTERIORS`.
      data_mean: the mean image, flat, which is subtracted from x; empty for none.
      dtype: dtype of the linear map.
      read: function of x whose result the network reads.
      codebook: module that the posterior's `codebook` returned; None if the family has none.
    """

    network: nn.Module
    latent_dim: int | tuple[int, ...]
    posterior: Posterior = POSTERIORS.make("normal")
    data_mean: tuple[float, ...] = ()
    dtype: DTypeLike | None = None
    read: Callable[[Array], Array] = lambda x: x
    codebook: nn.Module | None = None

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "*batch_and_event"]):
        x = centred(x, self.data_mean)
        size = self.posterior.num_parameters(self.latent_dim)
        parameters = nn.Dense(size, dtype=self.dtype, name="parameters")(self.network(self.read(x)))
        codes = () if self.codebook is None else (self.codebook.codes,)
        return self.posterior.distribution(_at_least_float32(parameters), self.latent_dim, *codes)


class Decoder(nn.Module):
    """p(x|z): a network from z to one or several numbers for each pixel, and a likelihood around these numbers.

    Attributes:
      network: module that maps z `[K, B, D]` to `[K, B, H * W * C]`, or to `[K, B, H * W * C * n]` if the likelihood
        needs n numbers for each pixel, which lie side by side.
      likelihood: the family of p(x|z), made by a factory of `LIKELIHOODS`.
      levels: number of grey levels of a pixel; likelihoods of grey levels read it.
      data_mean: the mean image, flat and in (0, 1). Its logits are added to the network's outputs, as if the bias of
        the last layer were initialized to them. Empty for none.
      read: function of z whose result the network reads: by default z itself, or the first of several stochastic
        layers. With one-hot vectors of codes it is the encoder's codebook.
      pixels: H * W * C, which the network's outputs and the images are checked against; 0 for no check.
    """

    network: nn.Module
    likelihood: Likelihood = LIKELIHOODS.make("bernoulli")
    levels: int = 256
    data_mean: tuple[float, ...] = ()
    read: Callable[[Samples], Array] = lambda z: z[0] if isinstance(z, tuple) else z
    pixels: int = 0

    @nn.compact
    def __call__(self, z: Samples):
        z = self.read(z)
        if z.ndim < 3:
            raise ValueError(f"samples z must have the shape [K, B, D], got {list(z.shape)}; for K = 1, give z[None]")
        outputs = _at_least_float32(self.network(z.reshape(*z.shape[:2], -1)))
        num_outputs = self.likelihood.num_outputs(self.levels)
        wanted = [*z.shape[:2], self.pixels * num_outputs]
        if self.pixels and list(outputs.shape) != wanted:
            raise ValueError(f"the network of the decoder must return the shape {wanted}, got {list(outputs.shape)}")
        if num_outputs > 1:
            outputs = outputs.reshape(*outputs.shape[:2], -1, num_outputs)
        if self.data_mean:
            outputs = self.likelihood.at_mean(outputs, jnp.asarray(self.data_mean, outputs.dtype))
        return self.likelihood.distribution(self.param, outputs, self.levels)


class Prior(nn.Module):
    """p(z): a distribution of batch_shape `[]`.

    Attributes:
      latent_dim: D, the number of latent variables; of each block, if the posterior has several.
      posterior: the family of q(z|x), which determines the prior's family; made by a factory of `POSTERIORS`.
      kind: where the prior's parameters come from, made by a factory of `PRIORS`.
      image_shape: (H, W, C), for a prior that reads the encoder.
      codebook: the encoder's module of code vectors, for quantized latents, whose prior is `standard`.
    """

    latent_dim: int | tuple[int, ...]
    posterior: Posterior = POSTERIORS.make("normal")
    kind: PriorKind = PRIORS.make("standard")
    image_shape: tuple[int, ...] = ()
    codebook: nn.Module | None = None

    @property
    def reads_encoder(self) -> bool:
        return self.kind.reads_encoder

    @nn.compact
    def __call__(self, encode: Callable[[Array], Any] | None = None, images: Images | None = None):
        if self.codebook is not None:
            return self.posterior.standard_prior(self.latent_dim, self.codebook.codes)
        if not self.reads_encoder:
            return self.kind.distribution(self.param, self.posterior, self.latent_dim)
        images = jnp.zeros((1, *self.image_shape), jnp.float32) if images is None else images
        return self.kind.distribution(self.param, self.posterior, self.latent_dim, encode, images)


def centred(x: Float[Array | np.ndarray, "..."], data_mean: tuple[float, ...]) -> Float[Array | np.ndarray, "..."]:
    """Images `[B, H, W, C]` minus the mean image, flat; unchanged if there is none."""
    return x - jnp.reshape(jnp.asarray(data_mean, x.dtype), x.shape[1:]) if data_mean else x


def _at_least_float32(outputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The outputs of a network that computes in a narrower format, as float32; wider formats stay."""
    return outputs.astype(jnp.float32) if jnp.finfo(outputs.dtype).bits < 32 else outputs
