"""Shared parts of the families: the decorator `family`, noise, and the reparameterization trick.

To add a family, write a class with the decorator `family`. A location-scale family inherits the trick from
`LocationScale`. Another family writes `rsample`, or only `sample` if its samples carry no gradient: estimators test
with `hasattr` which methods a distribution has. `add_kl` adds the closed form of a divergence. A family whose latent
dimensions are not independent says `factorized = False`, and a family over all real numbers says `is_real = True`. A
family that has a method `check()` raises ValueError in it, if numbers or shapes that it was given make no sense.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

# Samples and noise, arrays of jax or of NumPy. `*#samples` is [K, *batch], or a shape that broadcasts to it.
Vectors = Float[Array | np.ndarray, "*#samples D"]
OneHots = Float[Array | np.ndarray, "*#samples D C"]


def family(cls: type) -> type:
    """Makes a frozen dataclass of a class, and registers it as a pytree whose leaves are the fields.

    Parameters may have different shapes: where a distribution is built, its parameters are broadcast to one batch and
    one event. `Normal(mean [1], log_var [2])` has two dimensions with one mean. Integers and numbers of less than 32
    bits become float32, and so do the values that the class's own `log_prob` gets: samplers in bfloat16 would know only
    128 uniform numbers, and logarithms of counts would be wrong by nats.

    Raises:
      ValueError: where a distribution is built, if its parameters do not broadcast, if a static field is an array, or
        from its `check`.
    """
    # The tests execute annotations, but not those of a family's fields, which may be NumPy arrays and numbers too.
    cls.__no_type_check__ = True
    cls.__post_init__ = _prepare_parameters
    if "log_prob" in vars(cls):
        cls.log_prob = _with_float32_values(cls.log_prob)
    cls = dataclass(frozen=True)(cls)
    names = [each.name for each in fields(cls)]
    static = [each.name for each in fields(cls) if each.metadata.get("static")]
    leaves = [name for name in names if name not in static]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten(q):
        return [getattr(q, name) for name in leaves], tuple(getattr(q, name) for name in static)

    def flatten_with_keys(q):
        values, constants = flatten(q)
        return list(zip(keys, values, strict=True)), constants

    def unflatten(constants, values):  # without __post_init__: jax puts other objects in the place of parameters
        q = object.__new__(cls)
        q.__dict__.update(zip(leaves, values, strict=True), **dict(zip(static, constants, strict=True)))
        return q

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _prepare_parameters(q: Any) -> None:
    """Checks the static fields, makes floats of the parameters, and broadcasts the parameters.

    Parameters are the fields that are annotated as `Float[Array, "*batch D"]` and the like.
    """
    for each in fields(q):
        if each.metadata.get("static") and isinstance(getattr(q, each.name), jax.Array | np.ndarray):
            raise ValueError(f"{type(q).__name__} needs a Python number as its {each.name}, not an array")
    axes = {each.name: each.type.dim_str.split()[1:] for each in fields(q) if hasattr(each.type, "dim_str")}
    for name in axes:
        object.__setattr__(q, name, _as_floats(getattr(q, name)))
    _broadcast(q, axes)
    if hasattr(q, "check"):
        q.check()


def parameters(q: Any) -> list[Array]:
    """The parameters of q and of the distributions in its fields.

    A parameter is annotated as `Float[Array, "*batch D"]` or the like. Weights that all data share, such as those of a
    flow, have another annotation and are left out.
    """
    if isinstance(q, tuple):
        return [leaf for part in q for leaf in parameters(part)]
    if not is_dataclass(q):
        return []
    leaves: list[Array] = []
    for each in (each for each in fields(q) if not each.metadata.get("static")):
        value = getattr(q, each.name)
        leaves += [value] if hasattr(each.type, "dim_str") else parameters(value)
    return leaves


def check_levels(q: Any, levels: int) -> None:
    """Raises ValueError, with the family of q, if there are fewer than two levels."""
    if levels < 2:
        raise ValueError(f"{type(q).__name__} needs at least 2 levels, got {levels}")


def check_temperature(q: Any, temperature: float | np.number) -> None:
    """Raises ValueError, with the family of q, if the temperature is not positive."""
    if not temperature > 0:
        raise ValueError(f"{type(q).__name__} needs a positive temperature, got {temperature}")


def _with_float32_values(log_prob: Callable) -> Callable:
    """The method `log_prob` for values of any number of bits."""

    @functools.wraps(log_prob)
    def widened(self, z):
        return log_prob(self, jax.tree.map(_as_floats, z))

    return widened


def _as_floats(value: Any) -> Any:
    """Makes an array of a list, and float32 of integers, truth values and floats of less than 32 bits. Anything else is
    returned unchanged."""
    if isinstance(value, bool | int | list | tuple):
        value = jnp.asarray(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if not jnp.issubdtype(value.dtype, jnp.inexact) or jnp.finfo(value.dtype).bits < 32:
            return jnp.asarray(value, jnp.float32)
    return value


def _broadcast(q: Any, axes: dict[str, list[str]]) -> None:
    """Broadcasts the parameters to one batch, and their event axes, whose names are `axes`, axis by axis."""
    family = type(q).__name__
    given = {name: np.shape(getattr(q, name)) for name in axes}
    shapes = {name: (1,) * (len(axes[name]) - len(shape)) + shape for name, shape in given.items()}
    events = [
        pair for name, shape in shapes.items() for pair in zip(axes[name], shape[-len(axes[name]) :], strict=True)
    ]
    try:
        batch = np.broadcast_shapes(*(shape[: -len(axes[name])] for name, shape in shapes.items()))
        lengths = {axis: np.broadcast_shapes(*((n,) for name, n in events if name == axis))[0] for axis, _ in events}
    except ValueError:
        raise ValueError(f"the parameters of {family} do not broadcast; their shapes are {given}") from None
    for name, shape in given.items():
        event = tuple(lengths[axis] for axis in axes[name])
        if len(set(axes[name])) < len(axes[name]) and shapes[name][-len(event) :] != event:
            raise ValueError(f"{family} needs a {name} of shape {[*batch, *event]}, got {[*shape]}")
        if shape != (*batch, *event):
            object.__setattr__(q, name, jnp.broadcast_to(getattr(q, name), (*batch, *event)))


def event_shape(q: Any) -> tuple:
    """The shape of one sample; a tuple of shapes for several blocks.

    The first parameter of a family without `event_shape` has the shape [*batch, *event].
    """
    if hasattr(q, "event_shape"):
        return q.event_shape
    return jax.tree.leaves(q)[0].shape[len(q.batch_shape) :]


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Uniform on the midpoints of the cells of [0, 1], which are 2^-23 wide in float32 and 2^-52 in float64.

    A draw is never 0 or 1, and 1 - u is exact. Events that are less probable than half a cell never happen; if the
    draws were on the edges of the cells, such events would happen far too often.
    """
    return jax.random.uniform(key, shape, dtype) + jnp.finfo(dtype).eps / 2


def logistic(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Standard logistic noise, made of `uniform`.

    jax.random.logistic draws -87 with probability 2^-23, the probability of all values below -16. A relaxed bit that is
    rarer than 2^-23 would be drawn far too often, and with a wrong importance weight.
    """
    u = uniform(key, shape, dtype)
    return jnp.log(u) - jnp.log1p(-u)


class Reparameterizable:
    """Base of the families that have `rsample`; `sample` is `rsample` without its gradient."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jax.tree.leaves(self)[0].shape[:-1]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return stop_gradient(self.rsample(key, num_samples))

    def rsample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "{num_samples} ..."], Float[Array, "{num_samples} *batch"]]:
        """z of `rsample` and log q(z). A flow overrides this method, because it computes both without an inverse."""
        z = self.rsample(key, num_samples)
        return z, self.log_prob(z)


class Invertible:
    """Base of the families whose `from_noise` has an inverse `to_noise`, and whose noise has no parameters."""

    def with_path(self, z: Float[Array | np.ndarray, "*samples D"]) -> Float[Array, "*samples D"]:
        """z as a constant, with the derivative in the parameters that `rsample` gives a sample that it draws there."""
        path = self.from_noise(stop_gradient(self.to_noise(z)))
        return stop_gradient(z) + (path - stop_gradient(path))


class LocationScale(Reparameterizable):
    """z = mean + scale * eps, where eps comes from `noise`, whose distribution does not depend on the parameters."""

    is_real = True

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of the noise of one sample; `[*batch, D]` unless a family says otherwise."""
        return self.mean.shape

    def from_noise(self, eps: Vectors) -> Float[Array, "*#samples D"]:
        """The reparameterization trick: z as a function of the noise, through which gradients reach the parameters."""
        return self.mean + self.scale * eps

    def from_noise_and_log_prob(
        self, eps: Float[Array | np.ndarray, "*#samples N"]
    ) -> tuple[Float[Array, "*#samples D"], Float[Array, "*#samples"]]:
        """z of `from_noise` and log q(z)."""
        z = self.from_noise(eps)
        return z, self.log_prob(z)

    def rsample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "{num_samples} *batch D"]:
        return self.from_noise(self.noise(key, (num_samples, *self.noise_shape), self.mean.dtype))
