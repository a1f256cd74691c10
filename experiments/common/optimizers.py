"""The table of optimizers, and optimizers of the user."""

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
        return optax.partition({"model": model, "estimator": own}, train.PARTS)

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
        OPTIMIZERS[name] = _factory(packages.load_function(name, "optimizer", ("a learning rate",)))


def _factory(function: Callable) -> Callable[..., Optimizer]:
    @functools.wraps(function)  # the options are those of the function
    def factory(**options) -> Optimizer:
        def make(learning_rate: float | Array, schedule: Schedule) -> optax.GradientTransformation:
            return function(schedule(learning_rate), **options)

        return make

    return factory
