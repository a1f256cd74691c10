"""Traces some steps of training with `jax.profiler`, for TensorBoard's profile plugin, XProf or Perfetto.

An epoch is one compiled scan, so what is traced is the whole epochs that hold the steps.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax


class Profile:
    """A context in which `epoch(number)` is a context around each epoch; traces those that hold the steps `a:b`.

    Args:
      text: "a:b", numbers of steps from 1 on; nothing is traced where it is None.
      folder: where the trace is written.
      steps_per_epoch, epochs: of the run.

    Raises:
      ValueError: if there are no such steps.
    """

    def __init__(self, text: str | None, folder: Path, steps_per_epoch: int, epochs: int):
        self.folder, self.running, self.epochs, self.traced = folder, False, range(0), []
        if text is None:
            return
        if not re.fullmatch(r"\d+:\d+", text):
            raise ValueError(f"--profile_steps={text} is not FIRST:LAST, two numbers of steps, such as 1:100")
        first, last = map(int, text.split(":"))
        if not 1 <= first <= last <= epochs * steps_per_epoch:
            raise ValueError(
                f"--profile_steps={text} must lie within the run's steps, 1:{epochs * steps_per_epoch}, and go upwards"
            )
        self.epochs = range((first - 1) // steps_per_epoch + 1, (last - 1) // steps_per_epoch + 2)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stop()
        if self.traced:
            epochs = f"{self.traced[0]} to {self.traced[-1]}"
            print(f"trace of epochs {epochs}, for TensorBoard or ui.perfetto.dev: {self.folder}")
            self.epochs, self.traced = range(0), []  # once, where runs of a program are trained one part after another
        elif self.epochs:
            print("no trace: the steps of --profile_steps were not trained now")

    @contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """Around the epoch `number`, from 1 on, until its results are there."""
        if number in self.epochs and not self.running:
            jax.profiler.start_trace(self.folder)
            self.running = True
        if self.running:
            self.traced.append(number)
        with jax.profiler.StepTraceAnnotation("epoch", step_num=number):
            yield
        if number + 1 not in self.epochs:
            self._stop()

    def _stop(self) -> None:
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
