"""The table of optimizers, optimizers of the user, and learning-rate schedules."""

import functools
from collections.abc import Callable

import optax
from jax import Array

from experiments.common import packages
from vae import train
from vae.table import Table

# A function from the peak of a learning rate to the rate, or to the rate as a function of the step.
Schedule = Callable[[float | Array], optax.ScalarOrSchedule]
# A function from the peak of the model's learning rate and the schedule to the optimizer of {"model", "estimator"}.
Optimizer = Callable[[float | Array, Schedule], optax.GradientTransformation]

# Parameters of the model and of the estimator, which are optimized separately.
PARTS = {"model": "model", "estimator": "estimator"}
SCHEDULES = ("constant", "cosine", "linear", "stages")


def adam(epsilon: float = 1e-8, cv_learning_rate: float | Array = 0.0) -> Optimizer:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980).

    Args:
      epsilon: The number that is added to the root of the second moment.
      cv_learning_rate: The learning rate of the estimator's parameters, such as the scale of a control variate. A
        Python 0 means the model's learning rate. An array may be traced.

    Raises:
      ValueError: If epsilon is not positive.
    """
    return adamw(0.0, epsilon, cv_learning_rate)


def adamw(weight_decay: float = 1e-4, epsilon: float = 1e-8, cv_learning_rate: float | Array = 0.0) -> Optimizer:
    """Adam with decoupled weight decay of the model's parameters (Loshchilov & Hutter 2017, arXiv:1711.05101).

    A step also subtracts learning rate * weight_decay * parameter. The estimator's parameters do not decay.

    Args:
      weight_decay: The factor of the decay.
      epsilon: As in `adam`.
      cv_learning_rate: As in `adam`.

    Raises:
      ValueError: If epsilon is not positive, or weight_decay is negative.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")

    def make(learning_rate: float | Array, schedule: Schedule) -> optax.GradientTransformation:
        model = train.adam(schedule(learning_rate), eps=epsilon, weight_decay=weight_decay)
        has_own_rate = not isinstance(cv_learning_rate, int | float) or cv_learning_rate != 0
        if not has_own_rate and not weight_decay:
            return model
        own = train.adam(schedule(cv_learning_rate if has_own_rate else learning_rate), eps=epsilon)
        return optax.partition({"model": model, "estimator": own}, PARTS)

    return make


class OptimizerTable(Table):
    """The optimizers by name. `load` adds functions of the user as `module:function`."""

    def find(self, name: str) -> Callable[..., Optimizer]:
        if name not in self:
            known = ", ".join(self)
            raise ValueError(
                f"there is no optimizer {name!r}; choose one of {known}, or module:function, as in optax:sgd"
            )
        return self[name]


OPTIMIZERS = OptimizerTable("optimizer", {"adam": adam, "adamw": adamw}, reserved=("learning_rate",))


def load(name: str) -> None:
    """Imports the module of an optimizer `module:function` and adds the function to the table. Other names are left
    alone.

    The function is like those of optax: its first argument is the learning rate, a number or a schedule, and its
    keyword arguments are the options. It optimizes {"model", "estimator"}, the parameters of both.

    Raises:
      ValueError: If there is no such function, or if it cannot be called with a learning rate alone.
    """
    if ":" in name:
        OPTIMIZERS[name] = _factory(name, packages.load_function(name, "optimizer", ("a learning rate",)))


def _factory(name: str, function: Callable) -> Callable[..., Optimizer]:
    @functools.wraps(function)  # the options are those of the function
    def factory(**options) -> Optimizer:
        def make(learning_rate: float | Array, schedule: Schedule) -> optax.GradientTransformation:
            optimizer = function(schedule(learning_rate), **options)
            if not isinstance(optimizer, optax.GradientTransformation):
                kind = type(optimizer).__name__
                raise ValueError(f"--optimizer={name} returned a {kind}; return an optax.GradientTransformation")
            return optimizer

        return make

    return factory


def clip(optimizer: optax.GradientTransformation, max_norm: float | Array) -> optax.GradientTransformation:
    """The optimizer after clipping the global norm of the gradient.

    The gradients of the model and of the estimator are clipped separately. The gradient of a control variate may be a
    thousand times larger, and clipping both together would scale the model's gradient down.
    """
    clipping = optax.partition({part: optax.clip_by_global_norm(max_norm) for part in PARTS}, PARTS)
    return optax.chain(clipping, optimizer)


def make_schedule(name: str, steps_per_epoch: int, epochs: int) -> Schedule:
    """The schedule of that name, one of `SCHEDULES`, for a run of that length."""
    total_steps = steps_per_epoch * epochs
    if name == "constant":
        return lambda peak: peak
    if name == "cosine":
        return lambda peak: optax.cosine_decay_schedule(peak, total_steps)
    if name == "linear":
        return lambda peak: optax.linear_schedule(peak, 0.0, total_steps)
    # Burda, Grosse & Salakhutdinov (2015), section 5: stage i = 0, ..., 7 has 3^i epochs at 10^(-i/7) of the peak.
    factors = {steps_per_epoch * (3**i // 2): 10 ** (-1 / 7) for i in range(1, 8)}
    return lambda peak: optax.piecewise_constant_schedule(peak, factors)
