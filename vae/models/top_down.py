"""Inference from the top down, where there are several stochastic layers: the modules `TopDown` and `Ladder`.

    bottom_up   q(z_1|x) q(z_2|z_1) ... q(z_L|z_(L-1)), the encoder `vae.hierarchy.Chain`
    top_down    q(z_L|x) q(z_(L-1)|z_L, x) ... q(z_1|z_2, x), by networks of their own (Kingma et al. 2016,
                arXiv:1606.04934, section 3.2: bidirectional inference)
    ladder      the same factors; below the top each is the product of a density that depends on x and of the prior's
                p(z_l|z_(l+1)), normalized (Sonderby et al. 2016, arXiv:1602.02282)

Both orders from the top have a deterministic pass from the image upwards, which gives features d_1(x), ..., d_L(x).

A ladder shares p(z_l|z_(l+1)) with the prior. Its posterior therefore holds the weights of these conditionals as
weights of its own, beside its own numbers. An estimator that freezes q freezes them in log q(z) and nowhere else: the
path of the samples goes through them, and log p(x, z) differentiates them. The gradient in such a weight is then the
sum of what q and p contribute, as for any weight that two networks share.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vae import distributions as dist
from vae.hierarchy import Layer, Markov
from vae.models.families import Posterior
from vae.models.networks import MLP
from vae.models.vae import Encoder, centred

INFERENCES = ("bottom_up", "top_down", "ladder")

Images = Float[Array | np.ndarray, "B ..."]


class Features(nn.Module):
    """The network of the images x `[B, H, W, C]`; the attributes are those of `Encoder`."""

    network: nn.Module
    data_mean: tuple[float, ...] = ()
    read: Callable[[Array], Array] = lambda x: x

    def __call__(self, x: Images) -> Float[Array, "B F"]:
        return self.network(self.read(centred(x, self.data_mean)))


class TopDown(nn.Module):
    """q(z_L|x) q(z_(L-1)|z_L, x) ... q(z_1|z_2, x). A sample is the tuple (z_1, ..., z_L).

    Attributes:
      bottom_up: modules of the features, from the image upwards: d_1 from x, d_2 from d_1, ...
      layers: modules of the distributions, from the top: z_L from d_L, and z_l from d_l and z_(l+1) side by side.
      posterior: the family of the layers.
    """

    bottom_up: tuple[nn.Module, ...]
    layers: tuple[nn.Module, ...]
    posterior: Posterior
    reads_prior: ClassVar[bool] = False

    def __call__(self, x: Images) -> Markov:
        top, *features = _features(self.bottom_up, x)
        first = self.layers[0](top)
        given = partial(_beside, self.posterior)
        if self.is_initializing():
            key = jax.random.key(0)  # only the shapes of these samples matter
            z = first.sample(key, 1)
            for layer, d in zip(self.layers[1:], features, strict=True):
                z = layer(given(d, z)).sample(key, 1)[0]
        apply = [layer.clone(parent=None, name=None).apply for layer in self.layers[1:]]
        conditionals = tuple(partial(_from_both, each, given) for each in apply)
        weights = zip([layer.variables for layer in self.layers[1:]], features, strict=True)
        return Markov(first, tuple(weights), conditionals, descending=True)


class Ladder(nn.Module):
    """q(z_L|x), and below it q(z_l|z_(l+1), x) as a product of two densities. A sample is the tuple (z_1, ..., z_L).

    For Normals the product adds precisions, and its mean is the mean of both means, weighted by the precisions.

    Attributes:
      bottom_up: modules of the features, from the image upwards: d_1 from x, d_2 from d_1, ...
      layers: modules of the densities that depend on x, from the top: that of z_l from d_l.
    """

    bottom_up: tuple[nn.Module, ...]
    layers: tuple[nn.Module, ...]
    reads_prior: ClassVar[bool] = True

    def __call__(self, x: Images, prior: Markov) -> Markov:
        features = _features(self.bottom_up, x)
        first, *given_x = [layer(d) for layer, d in zip(self.layers, features, strict=True)]
        conditionals = tuple(partial(_times_prior, conditional) for conditional in prior.conditionals)
        weights = zip(given_x, prior.weights, strict=True)
        return Markov(first, tuple(weights), conditionals, descending=True)


def make_encoder(
    inference: str,
    images: Features,
    dims: tuple[int, ...],
    posterior: Posterior,
    layer_hidden: tuple[int, ...],
    activation: Callable[[Array], Array],
    dtype: DTypeLike | None,
) -> TopDown | Ladder:
    """The encoder for `inference`, top_down or ladder, and latent variables `dims` from the image upwards."""
    network = lambda widths: MLP(widths, activation, dtype=dtype)
    layer = lambda size, widths: Encoder(network(widths), size, posterior, dtype=dtype)
    bottom_up = (images, *(network(layer_hidden) for _ in dims[1:]))
    *lower, top = dims
    if inference == "ladder":
        return Ladder(bottom_up, tuple(layer(size, ()) for size in reversed(dims)))
    below = [layer(size, layer_hidden) for size in reversed(lower)]
    return TopDown(bottom_up, (layer(top, ()), *below), posterior)


def refuse_inference(inference: str, posterior: Posterior, layers: int) -> str | None:
    """Says why this order of inference does not go with the posterior and the number of layers; None if it does."""
    if inference not in INFERENCES:
        return f"there is no inference {inference!r}; choose one of {', '.join(INFERENCES)}"
    if inference != "bottom_up" and layers == 1:
        return f"inference={inference} needs several stochastic layers, as in latent_dim=8-4"
    if inference != "ladder" or (posterior.has_own_prior and type(posterior.standard_prior(1)) in _PRODUCTS):
        return None
    return (
        f"inference=ladder multiplies densities, and posterior={posterior.name} has no product in its family; choose "
        "inference=top_down, or posterior=normal, bernoulli or categorical"
    )


def product(q: Any, p: Any) -> Any:
    """The distribution whose density is proportional to the product of the densities of q and p.

    Raises:
      KeyError: if q is not a Normal, a Bernoulli or a Categorical.
    """
    return _PRODUCTS[type(q)](q, p)


def _product_of_normals(q: dist.Normal, p: dist.Normal) -> dist.Normal:
    log_var = -jnp.logaddexp(-q.log_var, -p.log_var)
    weight = jax.nn.sigmoid(p.log_var - q.log_var)  # the share of q in the precision
    return dist.Normal(weight * q.mean + (1 - weight) * p.mean, log_var)


_PRODUCTS: dict[type, Callable[[Any, Any], Any]] = {
    dist.Normal: _product_of_normals,
    dist.Bernoulli: lambda q, p: dist.Bernoulli(q.logits + p.logits),
    dist.Categorical: lambda q, p: dist.Categorical(q.logits + p.logits),
}


def _times_prior(conditional: Callable[[Any, Layer], Any], weights: tuple[Any, Any], above: Layer) -> Any:
    """The product of the density that depends on x, and of the prior's conditional at a sample of the layer above."""
    given_x, of_prior = weights
    return product(given_x, conditional(of_prior, above))


def _from_both(apply: Callable, given: Callable, weights: tuple[Any, Array], above: Layer) -> Any:
    variables, features = weights
    return apply(variables, given(features, above))


def _beside(posterior: Posterior, features: Float[Array, "*batch F"], z: Layer) -> Float[Array, "..."]:
    """The features, and beside them what networks read of a sample z `[..., *batch, *event]`."""
    z = posterior.read_between_layers(z)
    z = z.reshape(*z.shape[: z.ndim - posterior.event_ndim], -1)
    return jnp.concatenate([jnp.broadcast_to(features, (*z.shape[:-1], features.shape[-1])), z], axis=-1)


def _features(bottom_up: tuple[nn.Module, ...], x: Images) -> list[Float[Array, "B F"]]:
    """d_L, ..., d_1: the features, from the top."""
    features = [bottom_up[0](x)]
    for module in bottom_up[1:]:
        features.append(module(features[-1]))
    return features[::-1]
