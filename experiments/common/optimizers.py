"""The table of optimizers, and learning-rate schedules."""

from collections.abc import Callable

import optax
from jax import Array

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
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")

    def make(learning_rate: float | Array, schedule: Schedule) -> optax.GradientTransformation:
        model = train.adam(schedule(learning_rate), eps=epsilon)
        if isinstance(cv_learning_rate, int | float) and cv_learning_rate == 0:
            return model
        return optax.partition(
            {"model": model, "estimator": train.adam(schedule(cv_learning_rate), eps=epsilon)}, PARTS
        )

    return make


OPTIMIZERS = Table("optimizer", {"adam": adam})


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
