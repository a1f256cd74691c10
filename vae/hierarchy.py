"""Several stochastic layers: the distribution `Markov`, and the linen module `Chain` that returns it.

z_1 ~ q(. | x),  z_2 ~ q(. | z_1),  ...,  z_L ~ q(. | z_{L-1})
"""

import functools
from collections.abc import Callable
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions import family
from vae.distributions.base import event_shape

# A sample of one layer, `[K, *batch, D]` or `[K, *batch, D, C]`; and of all layers.
Layer = Float[Array | np.ndarray, "..."]
Layers = tuple[Layer, ...]


@family
class Markov:
    """A chain of stochastic layers: z_1 ~ first, z_{l+1} ~ q_l(. | z_l). A sample is the tuple (z_1, ..., z_L).
    Here z_1 is the layer that is drawn first, which is the top layer of a model.

    A Markov distribution holds the *weights* of its conditionals, and computes the conditionals from the layers before.
    So `stop_gradient(q)` freezes the weights, and leaves the path from layer to layer open. Sticking the landing and
    DReG need that.

    Attributes:
      first: distribution of z_1, of batch_shape `[*batch]`.
      weights: one pytree for each conditional.
      conditionals: functions `(weights, z_l [K, *batch, D_l]) -> distribution` of batch_shape `[K, *batch]`.
      descending: whether a sample lists the layers in the reverse order, (z_L, ..., z_1). A prior draws from the top
        down, and so does a posterior with inference from the top (vae/models/top_down.py). Both are descending, so that
        all samples are ordered alike.
    """

    first: Any
    weights: tuple
    conditionals: tuple[Callable, ...] = field(metadata={"static": True})
    descending: bool = field(default=False, metadata={"static": True})

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.first.batch_shape

    @property
    def num_layers(self) -> int:
        return 1 + len(self.weights)  # the first layer has no weights: it is a distribution

    @property
    def rsample(self) -> Callable[[PRNGKeyArray, int], Layers]:
        """A method like `sample` that carries gradients. It exists only if every layer has it."""
        self._ask_layers_for("rsample")
        return lambda key, num_samples: self._draw("rsample", key, num_samples)

    @property
    def rsample_and_log_prob(self) -> Callable[[PRNGKeyArray, int], tuple[Layers, Array]]:
        """A method that draws the samples of `rsample` and log q of them. It exists only if every layer has it."""
        self._ask_layers_for("rsample_and_log_prob")
        return self._rsample_and_log_prob

    @property
    def with_path(self) -> Callable[[Layers], Layers]:
        """A method that gives a sample the derivative of `rsample`, through all layers. It exists only if every layer
        has it."""
        self._ask_layers_for("with_path")
        return self._with_path

    @property
    def has_density(self) -> bool:
        return all(getattr(layer, "has_density", True) for layer in self._kinds)

    @property
    def is_deterministic(self) -> bool:
        """Whether a layer is one deterministic code, in which log q(z) has no derivative."""
        return any(getattr(layer, "is_deterministic", False) for layer in self._kinds)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Layers:
        return stop_gradient(self._draw("sample", key, num_samples))

    def log_prob(self, z: Layers) -> Float[Array, "*samples"]:
        return sum(self.ordered(self.log_prob_by_layer(z)))

    def log_prob_by_layer(self, z: Layers) -> tuple[Float[Array, "*samples"], ...]:
        """The terms of `log_prob`: log q of each layer given the one drawn before it, in the order of the sample."""
        layers = self.ordered(z)
        terms = tuple(q.log_prob(layer) for q, layer in zip(self._layers(layers), layers, strict=True))
        return self.ordered(terms)

    def layer(self, index: int, before: Layer | None) -> Any:
        """The distribution of a layer, in the order of drawing, given a sample `[K, *batch, D]` of the one before."""
        return self.conditionals[index - 1](self.weights[index - 1], before) if index else self.first

    def ordered(self, layers: tuple) -> tuple:
        """Turns layers in the order of drawing into a sample, and a sample into layers in the order of drawing."""
        return layers[::-1] if self.descending else layers

    def continued(self, key: PRNGKeyArray, layers: Layers) -> Layers:
        """A sample of all layers, as `log_prob` takes it, that begins with `layers` in the order of drawing."""
        return self.ordered(stop_gradient(self._continue("sample", key, layers)))

    def layer_means(self, key: PRNGKeyArray, num_samples: int) -> Layers:
        """E[z_l] of each layer, `[*batch, D_l]`: exact for the first layer if its family has a `mean`, and an average
        over samples for the others."""
        layers = self.ordered(self.sample(key, num_samples))
        first, *rest = [getattr(q, "mean", z) for q, z in zip(self._layers(layers), layers, strict=True)]
        first = first if hasattr(self.first, "mean") else jnp.mean(first, axis=0)
        return self.ordered((first, *(jnp.mean(means, axis=0) for means in rest)))

    def _ask_layers_for(self, method: str) -> None:
        for layer in self._kinds:
            if not hasattr(layer, method):
                raise AttributeError(f"{type(layer).__name__} layers have no {method}")

    @functools.cached_property
    def _kinds(self) -> list[Any]:
        """The distribution of each layer, with shapes in the place of parameters that depend on samples."""
        kinds = [self.first]
        for index in range(1, self.num_layers):
            before = kinds[-1]
            shape = (1, *self.batch_shape, *event_shape(before))
            dtype = next((leaf.dtype for leaf in jax.tree.leaves(before)), jnp.float32)  # uniform layers have no leaves
            z = jax.ShapeDtypeStruct(shape, dtype)
            try:
                kinds.append(jax.eval_shape(lambda q, z, index=index: q.layer(index, z), self, z))
            except AttributeError as error:  # `hasattr` would take it for a missing method
                raise TypeError(f"layer {index + 1} of a Markov distribution failed: {error}") from error
        return kinds

    def _layers(self, layers: Layers) -> list[Any]:
        """The distribution of each layer, given the layers before."""
        return [self.layer(index, before) for index, before in enumerate((None, *layers[:-1]))]

    def _draw(self, method: str, key: PRNGKeyArray, num_samples: int) -> Layers:
        key_first, key_rest = jax.random.split(key)
        first = getattr(self.first, method)(key_first, num_samples)
        return self.ordered(self._continue(method, key_rest, (first,)))

    def _rsample_and_log_prob(self, key: PRNGKeyArray, num_samples: int) -> tuple[Layers, Float[Array, "*samples"]]:
        key_first, key_rest = jax.random.split(key)
        z, log_q = self.first.rsample_and_log_prob(key_first, num_samples)
        layers = (z,)
        for index in range(1, self.num_layers):
            z, term = self.layer(index, layers[-1]).rsample_and_log_prob(jax.random.fold_in(key_rest, index), 1)
            layers = (*layers, z[0])
            log_q = log_q + term[0]
        return self.ordered(layers), log_q

    def _with_path(self, z: Layers) -> Layers:
        layers = ()
        for index, layer in enumerate(self.ordered(z)):
            layers = (*layers, self.layer(index, layers[-1] if layers else None).with_path(layer))
        return self.ordered(layers)

    def _continue(self, method: str, key: PRNGKeyArray, layers: Layers) -> Layers:
        for index in range(len(layers), self.num_layers):
            conditional = self.layer(index, layers[-1])
            layers = (*layers, getattr(conditional, method)(jax.random.fold_in(key, index), 1)[0])
        return layers


class Chain(nn.Module):
    """Several stochastic layers, as an encoder (z_1 from x, z_2 from z_1, ...) or as a prior (from the top down).

    Attributes:
      first: module of the first layer: an encoder of x, or a prior.
      rest: encoders of the further layers, each from a sample `[K, B, D_l]` of the layer before.
      descending: whether a sample lists the last layer first. A prior is descending, so that its samples are ordered
        like the encoder's.
    """

    first: nn.Module
    rest: tuple[nn.Module, ...]
    descending: bool = False

    def __call__(self, *inputs: Float[Array | np.ndarray, "..."]) -> Markov:
        first = self.first(*inputs)
        if self.is_initializing():
            key = jax.random.key(0)  # only the shapes of these samples matter
            z = first.sample(key, 1)
            for layer in self.rest:
                z = layer(z).sample(key, 1)[0]
        conditionals = tuple(layer.clone(parent=None, name=None).apply for layer in self.rest)
        weights = tuple(layer.variables for layer in self.rest)
        return Markov(first, weights, conditionals, self.descending)
