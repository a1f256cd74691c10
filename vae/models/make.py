"""`make_vae`: a VAE from the names of its parts, or from parts with options."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vae.hierarchy import Chain
from vae.models.families import POSTERIORS, Posterior
from vae.models.likelihoods import LIKELIHOODS, Likelihood
from vae.models.networks import ACTIVATIONS, ARCHITECTURES, MLP, Architecture
from vae.models.priors import PRIORS, PriorKind
from vae.models.priors import refusal as prior_refusal
from vae.models.quantized import refuse_layers
from vae.models.top_down import Features, make_encoder, refuse_inference
from vae.models.vae import VAE, Decoder, Encoder, Prior
from vae.table import Table


@dataclass(frozen=True)
class FirstLayer:
    """The function of a sample of several stochastic layers whose result the decoder reads."""

    read: Callable[[Array], Array]

    def __call__(self, z: tuple[Array, ...]) -> Array:
        return self.read(z[0])


def make_vae(
    image_shape: tuple[int, int, int],
    latent_dim: int | Sequence[int] = 20,
    hidden: int | Sequence[int] = (500,),
    layer_hidden: int | Sequence[int] = (),
    inference: str = "bottom_up",
    architecture: str | Architecture = "mlp",
    activation: str | Callable[[Array], Array] = "relu",
    likelihood: str | Likelihood = "bernoulli",
    posterior: str | Posterior = "normal",
    prior: str | PriorKind = "standard",
    levels: int = 256,
    data_mean: Sequence[float] = (),
    compute_dtype: str = "float32",
) -> VAE:
    """A VAE for images of shape (H, W, C).

    Architecture, activation, likelihood, posterior and prior are names, which stand for default options, or results of
    the tables' factories: `posterior=POSTERIORS.make("categorical", categories=8)`.

    Args:
      image_shape: (H, W, C).
      latent_dim: number of latent variables. Several numbers make as many stochastic layers, from the image upwards; if
        the posterior has several blocks, as `categorical+normal`, they are the numbers of the blocks.
      hidden: widths of the layers (mlp) or numbers of channels (conv), from the image to the latents. The decoder
        mirrors them.
      layer_hidden: widths of the layers between two stochastic layers. Without such layers, the log-variance of a layer
        is linear in the layer before, and E log q(z|x) / p(z) may be infinite.
      inference: order in which q(z|x) draws several stochastic layers: bottom_up, top_down or ladder (top_down.py).
      architecture: networks of the first stochastic layer and of the decoder, by `ARCHITECTURES`.
      activation: function between the networks' layers, by `ACTIVATIONS`.
      likelihood: family of p(x|z), by `LIKELIHOODS`.
      posterior: family of q(z|x), by `POSTERIORS`.
      prior: where the prior's parameters come from, by `PRIORS`.
      levels: number of grey levels of the data; likelihoods of grey levels read it.
      data_mean: the mean image, one number for each pixel, which centres the encoder's inputs and the decoder's
        outputs; empty for none.
      compute_dtype: dtype of the products and activations of the networks' layers.

    Raises:
      ValueError: for an unknown name, for a size that is not a positive integer, and for choices that do not go
        together.
    """
    architecture = _choose(architecture, ARCHITECTURES)
    activation = _choose(activation, ACTIVATIONS)
    likelihood = _choose(likelihood, LIKELIHOODS)
    posterior = _choose(posterior, POSTERIORS)
    prior = _choose(prior, PRIORS)
    dims = _sizes("latent_dim", latent_dim)
    if not dims:
        raise ValueError("latent_dim needs at least one number")
    if posterior.num_blocks > 1:
        if len(dims) != posterior.num_blocks:
            raise ValueError(
                f"posterior={posterior.name} has {posterior.num_blocks} blocks; give latent_dim a number for each, got "
                f"{latent_dim}"
            )
        dims = (dims,)
    refusal = (
        refuse_layers(posterior, len(dims))
        or refuse_inference(inference, posterior, len(dims))
        or prior_refusal(prior, posterior)
    )
    if refusal:
        raise ValueError(refusal)

    hidden = _sizes("hidden", hidden)
    layer_hidden = _sizes("layer_hidden", layer_hidden)
    data_mean = tuple(data_mean)
    if len(_sizes("image_shape", image_shape)) != 3:
        raise ValueError(f"image_shape must be three numbers (H, W, C), got {image_shape}")
    if len(hidden) < architecture.least_layers:
        raise ValueError(
            f"architecture={architecture.name} needs {architecture.least_layers} or more layers in hidden, got "
            f"{len(hidden)}"
        )
    if prior.reads_encoder and len(dims) > 1:
        raise ValueError(f"prior={prior.name} needs one stochastic layer; give latent_dim one number")
    if likelihood.pixels == "counts" and data_mean:
        raise ValueError(f"likelihood={likelihood.name} takes no data_mean, which is the logits of pixels in [0, 1]")
    dtype = None if compute_dtype == "float32" else jnp.dtype(compute_dtype)

    network = architecture.encoder(hidden, activation, image_shape, dtype)
    codebook = posterior.codebook()
    read = codebook if posterior.reads_codebook else posterior.read
    encoder = Encoder(network, dims[0], posterior, data_mean, dtype, likelihood.read, codebook)
    prior_module = Prior(dims[-1], posterior, prior, tuple(image_shape), codebook)
    if len(dims) > 1:

        def layer(size: int, family: Posterior) -> Encoder:
            network = MLP(layer_hidden, activation, event_ndim=posterior.event_ndim, dtype=dtype)
            return Encoder(network, size, family, dtype=dtype, read=posterior.read_between_layers)

        read = FirstLayer(posterior.read)
        if inference == "bottom_up":
            encoder = Chain(encoder, tuple(layer(size, posterior) for size in dims[1:]))
        else:
            images = Features(network, data_mean, likelihood.read)
            encoder = make_encoder(inference, images, dims, posterior, layer_hidden, activation, dtype)
        downwards = tuple(layer(size, posterior.layer_prior) for size in reversed(dims[:-1]))
        prior_module = Chain(prior_module, downwards, descending=True)
    # The numbers of a pixel are channels of the network's image.
    outputs = (*image_shape[:2], image_shape[2] * likelihood.num_outputs(levels))
    network = architecture.decoder(hidden, activation, outputs, dtype)
    decoder = Decoder(network, likelihood, levels, data_mean, read, pixels=math.prod(image_shape))
    return VAE(encoder, decoder, prior_module)


def _sizes(argument: str, given: int | Sequence[int]) -> tuple[int, ...]:
    """The numbers as a tuple; one number is a tuple of one."""
    numbers = tuple(given) if isinstance(given, Iterable) else (given,)
    for number in numbers:
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{argument} must be positive integers, got {given!r}")
    return numbers


def _choose(choice: Any, table: Table) -> Any:
    """The result of the named factory with default options; a choice that is not a name is returned unchanged."""
    return table.make(choice) if isinstance(choice, str) else choice
