"""The table of learning-rate schedules.

schedule = SCHEDULES.make("cosine", warmup=5.0)
rate = schedule(1e-3, steps=2000, steps_per_epoch=20)    # optax's: a number, or a function of the step
"""

from collections.abc import Callable

import optax
from jax import Array

from vae.table import Table

# A function of the peak, the steps of the run and the steps of an epoch to the learning rate, or to the rate as a
# function of the step.
Course = Callable[[float | Array, int, int], optax.ScalarOrSchedule]


def constant(warmup: float = 0.0) -> Course:
    """The peak at every step.

    Args:
      warmup: The number of epochs over which the rate first rises linearly from 0 to the peak.

    Raises:
      ValueError: If warmup is negative.
    """
    return _after(warmup, lambda peak, steps, steps_per_epoch: peak)


def cosine(warmup: float = 0.0) -> Course:
    """Half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), from the peak to zero at the end; see `constant`."""
    return _after(warmup, lambda peak, steps, steps_per_epoch: optax.cosine_decay_schedule(peak, steps))


def linear(warmup: float = 0.0) -> Course:
    """A line from the peak to zero at the end; see `constant`."""
    return _after(warmup, lambda peak, steps, steps_per_epoch: optax.linear_schedule(peak, 0.0, steps))


def stages(warmup: float = 0.0) -> Course:
    """The stages of Burda, Grosse & Salakhutdinov (2015), section 5: stage i = 0, ..., 7 has 3^i epochs at 10^(-i/7)
    of the peak; see `constant`."""

    def schedule(peak: float | Array, steps: int, steps_per_epoch: int) -> optax.Schedule:
        factors = {steps_per_epoch * (3**i // 2): 10 ** (-1 / 7) for i in range(1, 8)}
        return optax.piecewise_constant_schedule(peak, factors)

    return _after(warmup, schedule)


SCHEDULES = Table("schedule", {"constant": constant, "cosine": cosine, "linear": linear, "stages": stages})


def _after(warmup: float, following: Course) -> Course:
    """A linear rise over `warmup` epochs, then the other schedule over the steps that are left."""
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0, got {warmup}")

    def schedule(peak: float | Array, steps: int, steps_per_epoch: int) -> optax.ScalarOrSchedule:
        rising = round(warmup * steps_per_epoch)
        if not rising:
            return following(peak, steps, steps_per_epoch)
        if rising >= steps:
            raise ValueError(f"--schedule: warmup={warmup:g} leaves no step of --epochs={steps // steps_per_epoch}")
        rate = following(peak, steps - rising, steps_per_epoch)
        rate = rate if callable(rate) else optax.constant_schedule(rate)
        return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), rate], [rising])

    return schedule
