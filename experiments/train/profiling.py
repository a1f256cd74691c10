"""Traces some steps of training with `jax.profiler`, for TensorBoard's profile plugin, XProf or Perfetto.

An epoch is one compiled scan, so the trace covers the whole epochs that contain the steps.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax


class Profile:
    """A context around the training of a program. Its method `epoch` is a context around each epoch.

    Args:
      steps: The first and the last step to trace, as "FIRST:LAST", counted from 1; None to trace nothing.
      folder: The folder of the trace.
      steps_per_epoch: The number of steps in an epoch.
      epochs: The number of epochs of the run.

    Raises:
      ValueError: If `steps` is malformed, or the run does not have these steps.
    """

    def __init__(self, steps: str | None, folder: Path, steps_per_epoch: int, epochs: int):
        self.folder = folder
        self._epochs = range(0) if steps is None else _epochs_with(steps, steps_per_epoch, epochs)
        self._traced: list[int] = []
        self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stop()
        if self._traced:
            epochs = f"{self._traced[0]} to {self._traced[-1]}"
            print(f"trace of epochs {epochs}, for TensorBoard or ui.perfetto.dev: {self.folder}")
            # The runs of a program may be trained in several parts. Only the first part is traced.
            self._epochs = range(0)
            self._traced = []
        elif self._epochs:
            print("no trace was written, because the steps of --profile_steps were trained earlier")

    @contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """A context around an epoch, counted from 1, until its results are on the host."""
        if number in self._epochs and not self._running:
            jax.profiler.start_trace(self.folder)
            self._running = True
        if self._running:
            self._traced.append(number)
        with jax.profiler.StepTraceAnnotation("epoch", step_num=number):
            yield
        if number + 1 not in self._epochs:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def _epochs_with(steps: str, steps_per_epoch: int, epochs: int) -> range:
    """The epochs, counted from 1, that contain the steps."""
    if not re.fullmatch(r"\d+:\d+", steps):
        raise ValueError(f"--profile_steps={steps} is not FIRST:LAST; give two numbers of steps, such as 1:100")
    first, last = map(int, steps.split(":"))
    total = epochs * steps_per_epoch
    if not 1 <= first <= last <= total:
        raise ValueError(f"--profile_steps={steps} is not a range within the run's steps, which are 1:{total}")
    return range((first - 1) // steps_per_epoch + 1, (last - 1) // steps_per_epoch + 2)
