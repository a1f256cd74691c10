"""Flax linen networks: deterministic functions of their parameters; the key of eps is an argument.

    model = VAE(Encoder(MLP((500,), event_ndim=3), latent_dim=20), Decoder(MLP((500,), outputs=784)), Prior(20))
    params = model.init(key, x, key)
    q = model.apply(params, x, method="encode")  # q(z|x), a distribution of batch_shape [B]

Images x are `[B, H, W, C]` in [0, 1]; samples z `[K, B, D]`; all log-densities are in nats, summed over the event.

Networks compute in their `dtype` (None: that of their inputs), as Flax's layers do; parameters, and from the networks'
outputs on the distributions, are float32 at least.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from vae import distributions as dist
from vae.devices import mesh


class VAE(nn.Module):
    """p(z) p(x|z) with the approximate posterior q(z|x).

    Attributes:
      encoder: x `[B, H, W, C]` to q(z|x), a distribution of batch_shape `[B]`.
      decoder: z `[K, B, D]` to p(x|z), a distribution over flattened pixels of batch_shape `[K, B]`.
      prior: nothing to p(z), a distribution of batch_shape `[]`.
    """

    encoder: nn.Module
    decoder: nn.Module
    prior: nn.Module

    def __call__(self, x: Array, key: Array, num_samples: int = 1):
        """Encodes x, samples with the key given, decodes: p(x|z) of batch_shape `[K, B]`."""
        self.prior()
        return self.decoder(self.encoder(x).sample(key, num_samples))

    def encode(self, x: Array):
        """q(z|x), batch_shape `[B]`."""
        return self.encoder(x)

    def decode(self, z: Array):
        """p(x|z), a distribution over flattened pixels, batch_shape that of z."""
        return self.decoder(z)

    def prior_distribution(self):
        """p(z), batch_shape `[]`."""
        return self.prior()

    def log_likelihood(self, x: Array, z: Array) -> Array:
        """log p(x|z), `[K, B]`."""
        return self.decoder(z).log_prob(x.reshape(x.shape[0], -1))

    def log_joint(self, x: Array, z: Array) -> Array:
        """log p(x, z), `[K, B]`."""
        return self.log_likelihood(x, z) + self.prior().log_prob(z)

    def kl_to_prior(self, q, per_dimension: bool = False) -> Array:
        """KL(q(z|x) || p(z)) in closed form, `[B]`; for factorized families also per latent dimension, `[B, D]`."""
        if not per_dimension:
            return dist.kl(q, self.prior())
        if isinstance(q, dist.MultivariateNormal | dist.Dirichlet):
            raise ValueError(f"free bits need a factorized posterior; {type(q).__name__} does not split by dimension")
        # Each latent dimension as a distribution of its own: an event of length 1 after a batch axis of D.
        axis = -2 if isinstance(q, dist.Categorical) else -1
        split = lambda d: jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), d)
        return dist.kl(split(q), split(self.prior()))


class Encoder(nn.Module):
    """q(z|x): a network, and a linear map from its features to the parameters of the family.

    Attributes:
      network: x `[B, H, W, C]` to features `[B, F]`.
      latent_dim: D.
      family: a key of `POSTERIORS`.
      categories: of each latent variable of a categorical posterior; unused by others.
      data_mean: the mean image, flat, which is subtracted from x; empty for none.
      dtype: of the linear map.
      temperature: of a relaxed family; 0 for the family's own.
      read: what the network sees of x.
    """

    network: nn.Module
    latent_dim: int
    family: str = "normal"
    categories: int = 10
    data_mean: tuple[float, ...] = ()
    dtype: DTypeLike | None = None
    temperature: float = 0.0
    read: Callable[[Array], Array] = lambda x: x

    @nn.compact
    def __call__(self, x: Array):
        x = x - jnp.reshape(jnp.asarray(self.data_mean, x.dtype), x.shape[1:]) if self.data_mean else x
        family = POSTERIORS[self.family]
        outputs = family.outputs(self.latent_dim, self.categories)
        parameters = nn.Dense(outputs, dtype=self.dtype, name="parameters")(self.network(self.read(x)))
        return _at(self.temperature, family.build(_at_least_float32(parameters), self.latent_dim))


class Chain(nn.Module):
    """Several stochastic layers, as an encoder (z_1 from x, z_2 from z_1, ...) or as a prior (from the top down).

    Attributes:
      first: the module of the first layer: an encoder of x, or a prior.
      rest: encoders of each further layer from the one before, `[K, B, D_l]`.
      descending: for a prior, whose sample is ordered like the encoder's, first layer last.
    """

    first: nn.Module
    rest: tuple[nn.Module, ...]
    descending: bool = False

    def __call__(self, *inputs: Array) -> dist.Markov:
        first = self.first(*inputs)
        if self.is_initializing():
            z = jnp.zeros((1, *first.batch_shape, *first.mean.shape[len(first.batch_shape) :]), first.mean.dtype)
            for layer in self.rest:
                z = layer(z).mean
        conditionals = tuple(layer.clone(parent=None, name=None).apply for layer in self.rest)
        return dist.Markov(first, tuple(layer.variables for layer in self.rest), conditionals, self.descending)


class Decoder(nn.Module):
    """p(x|z): a network from z (of several layers the first) to one number a pixel, and a likelihood around it.

    Attributes:
      network: z `[K, B, D]` to `[K, B, H * W * C]`.
      likelihood: a key of `LIKELIHOODS`. The Gaussian and the discretized logistic learn one log-scale a pixel.
      data_mean: the mean image in (0, 1), flat, whose logits are added to the network's outputs, as if its last bias
        began there; empty for none.
      read: what the network sees of z.
    """

    network: nn.Module
    likelihood: str = "bernoulli"
    levels: int = 256
    data_mean: tuple[float, ...] = ()
    read: Callable[[Array], Array] = lambda z: z

    @nn.compact
    def __call__(self, z: Array):
        z = self.read(z[0] if isinstance(z, tuple) else z)
        pixels = _at_least_float32(self.network(z.reshape(*z.shape[:2], -1)))
        if self.data_mean:
            mean = jnp.asarray(self.data_mean, pixels.dtype)
            pixels = pixels + jnp.log(mean) - jnp.log1p(-mean)
        initial, build = LIKELIHOODS[self.likelihood]
        if initial is None:
            return build(pixels)
        log_scale = self.param("log_scale", nn.initializers.constant(initial), pixels.shape[-1:], jnp.float32)
        return build(nn.sigmoid(pixels), jnp.broadcast_to(log_scale, pixels.shape), self.levels)


class Prior(nn.Module):
    """The prior of a posterior family: standard normal, standard Laplace, Gamma(1, 1), uniform, fair coins and dice.

    Attributes:
      learned: its parameters are learned, from there on; for families that have a prior of their own.
      temperature: of a relaxed family; 0 for the family's own.
    """

    latent_dim: int
    family: str = "normal"
    categories: int = 10
    learned: bool = False
    temperature: float = 0.0

    @nn.compact
    def __call__(self):
        family = POSTERIORS[self.family]
        flat = jnp.zeros(family.outputs(self.latent_dim, self.categories), jnp.float32)
        if self.learned:
            flat = self.param("parameters", nn.initializers.zeros, flat.shape, flat.dtype)
            return _at(self.temperature, family.build(flat, self.latent_dim))
        return _at(self.temperature, (family.prior or family.build)(flat, self.latent_dim))


class MLP(nn.Module):
    """Dense layers on the flattened event, the activation after each; `outputs`, where given, adds a linear layer.
    Without hidden layers it is linear."""

    hidden: Sequence[int]
    activation: Callable = nn.relu
    outputs: int | None = None
    event_ndim: int = 1
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def of_rows(h):
            h = h.reshape(len(h), -1)
            for i, width in enumerate(self.hidden):
                h = self.activation(nn.Dense(width, dtype=self.dtype, name=f"hidden_{i}")(h))
            return h if self.outputs is None else nn.Dense(self.outputs, dtype=self.dtype, name="outputs")(h)

        # One axis of rows: the gradient of a product over two axes is slower by a twentieth, even if one has length 1.
        return mesh.by_rows(of_rows, x, x.ndim - self.event_ndim)


class ConvEncoder(nn.Module):
    """One 3x3 convolution of stride 2 a layer, images `[B, H, W, C]` to features `[B, F]`."""

    channels: Sequence[int]
    activation: Callable = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.channels):
            x = self.activation(nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=f"conv_{i}")(x))
        return x.reshape(x.shape[0], -1)


class ConvDecoder(nn.Module):
    """The encoder's mirror: z `[K, B, D]` to `[K, B, H * W * C]` by transposed convolutions of stride 2."""

    channels: Sequence[int]
    image_shape: tuple[int, int, int]
    activation: Callable = nn.relu
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        height, width, colours = self.image_shape
        sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(self.channels) + 1)][::-1]
        (rows, columns), channels = sizes[0], self.channels[::-1]
        h = self.activation(nn.Dense(rows * columns * channels[0], dtype=self.dtype, name="project")(z))

        def of_rows(h):
            h = h.reshape(len(h), rows, columns, channels[0])
            for i, size in enumerate(sizes[1:]):
                last = i == len(sizes) - 2
                features = colours if last else channels[i + 1]
                deconvolve = nn.ConvTranspose(features, (3, 3), strides=(2, 2), dtype=self.dtype, name=f"deconv_{i}")
                h = deconvolve(h)[:, : size[0], : size[1]]
                h = h if last else self.activation(h)
            return h.reshape(len(h), -1)

        return mesh.by_rows(of_rows, h, h.ndim - 1)


def make_vae(
    image_shape: tuple[int, int, int],
    latent_dim: int | Sequence[int] = 20,
    hidden: Sequence[int] = (500,),
    layer_hidden: Sequence[int] = (),
    architecture: str = "mlp",
    activation: str = "relu",
    negative_slope: float = 0.01,
    likelihood: str = "bernoulli",
    posterior: str = "normal",
    levels: int = 256,
    categories: int = 10,
    learn_prior: bool = False,
    signed_bits: bool = False,
    data_mean: Sequence[float] = (),
    compute_dtype: str = "float32",
    temperature: float = 0.0,
) -> VAE:
    """The VAE that the experiments' flags describe. `hidden` are widths of layers (mlp) or channels (conv), from the
    image to the latents; the decoder mirrors them. Several latent dimensions make as many stochastic layers, from the
    image upwards, with `layer_hidden` widths between two of them. `negative_slope` is that of `leaky_relu`. `levels`
    are the grey levels of the discretized logistic, `categories` those of each categorical latent variable. With
    `signed_bits` networks see bits as -1 and 1. `data_mean`, one number a pixel, centres the encoder's inputs and the
    decoder's outputs. `compute_dtype` is that of the layers' products and activations, `temperature` that of relaxed
    latents in posterior and prior, 0 for the family's own.

    Raises:
      ValueError: for a name that is not known, and what goes with no other choice made.
    """
    names = {"architecture": architecture, "activation": activation, "posterior": posterior, "likelihood": likelihood}
    tables = (ARCHITECTURES, ACTIVATIONS, POSTERIORS, LIKELIHOODS)
    for (option, name), table in zip(names.items(), tables, strict=True):
        if name not in table:
            raise ValueError(f"--{option} must be one of {', '.join(table)}, got {name!r}")
    act = _leaky_relu(negative_slope) if activation == "leaky_relu" else ACTIVATIONS[activation]
    data_mean = tuple(data_mean)
    dtype = None if compute_dtype == "float32" else jnp.dtype(compute_dtype)
    if architecture == "conv" and not hidden:
        raise ValueError("--architecture=conv needs at least one layer in --hidden")
    encode, decode = (make(hidden, act, image_shape, dtype) for make in ARCHITECTURES[architecture])
    if learn_prior and POSTERIORS[posterior].prior:
        able = ", ".join(name for name, family in POSTERIORS.items() if not family.prior)
        raise ValueError(
            f"--learn_prior is not for --posterior={posterior}, whose prior is of another family; for {able}"
        )
    family = POSTERIORS[posterior]
    if signed_bits and not family.read_signed:
        able = " or ".join(name for name, family in POSTERIORS.items() if family.read_signed)
        raise ValueError(f"--signed_bits is of binary latents; leave it out or take --posterior={able}")
    read = family.read_signed if signed_bits else family.read
    first, *above = (latent_dim,) if isinstance(latent_dim, int) else latent_dim
    encoder = Encoder(encode, first, posterior, categories, data_mean, dtype, temperature)
    prior = Prior(above[-1] if above else first, posterior, categories, learn_prior, temperature)
    if above:
        event_ndim = 2 if posterior in ("categorical", "concrete") else 1
        network = MLP(layer_hidden, act, event_ndim=event_ndim, dtype=dtype)
        options = {"dtype": dtype, "temperature": temperature, "read": read}
        between = lambda size: Encoder(network.clone(), size, posterior, categories, **options)
        encoder = Chain(encoder, tuple(between(size) for size in above))
        prior = Chain(prior, tuple(between(size) for size in [first, *above[:-1]][::-1]), descending=True)
    return VAE(encoder, Decoder(decode, likelihood, levels, data_mean, read), prior)


@functools.cache  # the same function for the same slope: networks are equal, and compiled once
def _leaky_relu(negative_slope: float) -> Callable:
    return functools.partial(nn.leaky_relu, negative_slope=negative_slope)


def _at_least_float32(outputs: Array) -> Array:
    """Of a network in a narrower format; wider ones stay."""
    return outputs.astype(jnp.float32) if jnp.finfo(outputs.dtype).bits < 32 else outputs


def _at(temperature: float, family):
    """The family at that temperature; as it is for 0."""
    return dataclasses.replace(family, temperature=temperature) if temperature else family


def _split(flat: Array, size: int) -> list[Array]:
    return jnp.split(flat, flat.shape[-1] // size, axis=-1)


def _full_covariance(flat: Array, size: int) -> dist.MultivariateNormal:
    """D means, D log-variances, and the strictly lower triangle of a factor that has ones on its diagonal.

    The factor's rows are scaled by the standard deviations, so that a narrow posterior needs no small outputs, and its
    triangle is divided by D, so that a network's first outputs, of order 1, hardly correlate: without the two the
    encoder learns far less in the same time. Zeros are the standard normal.
    """
    mean, log_var, lower = jnp.split(flat, [size, 2 * size], axis=-1)
    factor = jnp.broadcast_to(jnp.eye(size, dtype=flat.dtype), (*flat.shape[:-1], size, size))
    factor = factor.at[..., *jnp.tril_indices(size, -1)].set(lower / size)
    return dist.MultivariateNormal(mean, jnp.exp(0.5 * log_var)[..., None] * factor)


def _student_t(flat: Array, size: int) -> dist.StudentT:
    mean, log_scale, log_df = _split(flat, size)
    return dist.StudentT(mean, log_scale, 2.0 + log_df)  # near 7 degrees of freedom at first: a finite variance


def _standard_normal(flat: Array, size: int) -> dist.Normal:
    return dist.Normal(flat[:size], flat[:size])


class Posterior(NamedTuple):
    """A family of posteriors.

    Attributes:
      outputs: `outputs(D, categories)`, the length of the flat vector that holds the parameters of D latents.
      build: `build(flat [*batch, outputs], D)`, the distribution.
      prior: the same of the prior, for a vector of zeros; None where that is `build` itself.
      read: what networks see of a sample.
      read_signed: the same of bits as -1 and 1.
      hard: of a relaxation, the family of the same parameters that it stands for and is judged as.
    """

    outputs: Callable[[int, int], int]
    build: Callable
    prior: Callable | None = None
    read: Callable = lambda z: z
    read_signed: Callable | None = None
    hard: str | None = None


def _pairs(family) -> Posterior:
    """Two numbers a latent."""
    return Posterior(lambda d, c: 2 * d, lambda flat, d: family(*_split(flat, d)))


POSTERIORS: dict[str, Posterior] = {
    "normal": _pairs(dist.Normal),
    "full_covariance": Posterior(lambda d, c: 2 * d + d * (d - 1) // 2, _full_covariance, _standard_normal),
    "laplace": _pairs(dist.Laplace),
    "student_t": Posterior(lambda d, c: 3 * d, _student_t, _standard_normal),
    "gamma": _pairs(dist.Gamma),
    "beta": _pairs(dist.Beta),
    "dirichlet": Posterior(lambda d, c: d, lambda flat, d: dist.Dirichlet(flat)),
    "bernoulli": Posterior(lambda d, c: d, lambda flat, d: dist.Bernoulli(flat), read_signed=lambda z: 2 * z - 1),
    "categorical": Posterior(
        lambda d, c: d * c, lambda flat, d: dist.Categorical(flat.reshape(*flat.shape[:-1], d, -1))
    ),
    "binary_concrete": Posterior(
        lambda d, c: d,
        lambda flat, d: dist.BinaryConcrete(flat),
        read=nn.sigmoid,
        read_signed=lambda z: jnp.tanh(z / 2),
        hard="bernoulli",
    ),
    "concrete": Posterior(
        lambda d, c: d * c,
        lambda flat, d: dist.ExpConcrete(flat.reshape(*flat.shape[:-1], d, -1)),
        read=jnp.exp,
        hard="categorical",
    ),
}


# The initial log-scale (None where there is none), and p(x|z): of the logits, or of means, log-scales and grey levels.
LIKELIHOODS: dict[str, tuple[float | None, Callable]] = {
    "bernoulli": (None, dist.Bernoulli),
    "gaussian": (-1.0, lambda mean, log_scale, levels: dist.Normal(mean, 2 * log_scale)),
    "discretized_logistic": (-2.0, dist.DiscretizedLogistic),
}
ACTIVATIONS: dict[str, Callable] = {"relu": nn.relu, "tanh": nn.tanh, "leaky_relu": nn.leaky_relu, "gelu": nn.gelu}


class Architecture(NamedTuple):
    """The networks of an encoder and a decoder.

    Attributes:
      encoder: `encoder(hidden, activation, image_shape, dtype)`, a network from images `[B, H, W, C]` to features
        `[B, F]`. `hidden` are widths from the image to the latents.
      decoder: the same of one from samples `[K, B, D]`, as networks see them, to `[K, B, H * W * C]`.
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(
        lambda hidden, act, shape, dtype: MLP(hidden, act, event_ndim=3, dtype=dtype),
        lambda hidden, act, shape, dtype: MLP(hidden[::-1], act, outputs=math.prod(shape), dtype=dtype),
    ),
    "conv": Architecture(
        lambda hidden, act, shape, dtype: ConvEncoder(hidden, act, dtype),
        lambda hidden, act, shape, dtype: ConvDecoder(hidden, shape, act, dtype),
    ),
}
