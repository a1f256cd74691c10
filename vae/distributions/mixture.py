"""Finite mixtures of one family."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vae.distributions.base import event_shape, family


@family
class Mixture:
    """Component m has the probability softmax(logits)[m]; the density is the weighted sum of the components' densities.

    Samples carry no gradient.

    Attributes:
      logits: logits of the components' probabilities, `[*batch, M]`.
      components: a distribution of batch_shape `[*batch, M]`.
    """

    logits: Float[Array, "*batch M"]
    components: Any
    factorized = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return event_shape(self.components)

    @property
    def mean(self) -> Float[Array, "..."]:
        """E[z], `[*batch, *event]`; components without a mean have none."""
        weights = jnp.expand_dims(jax.nn.softmax(self.logits, axis=-1), self._event_axes)
        return jnp.sum(weights * self.components.mean, axis=self._axis)

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} ..."]:
        key_index, key_components = jax.random.split(key)
        index = jax.random.categorical(key_index, self.logits, shape=(num_samples, *self.batch_shape))
        draws = self.components.sample(key_components, num_samples)  # [K, *batch, M, *event]
        index = jnp.expand_dims(index, (self._axis, *self._event_axes))
        return jnp.squeeze(jnp.take_along_axis(draws, index, axis=self._axis), axis=self._axis)

    def log_prob(self, z: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        of_components = self.components.log_prob(jnp.expand_dims(z, self._axis))  # [K, *batch, M]
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits, axis=-1) + of_components, axis=-1)

    @property
    def _event_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.event_shape), 0))

    @property
    def _axis(self) -> int:
        """The axis of the components in `[*batch, M, *event]`."""
        return -len(self._event_axes) - 1
