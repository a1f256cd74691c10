"""What is written while a run is trained: a row for each evaluation, its time, and checkpoints."""

from contextlib import ExitStack
from typing import Any

from experiments.common.run_folder import RunFolder
from vae import checkpoint, train


class Recorder:
    """A context that writes the evaluations and checkpoints of one run.

    Args:
      folder: The run's folder.
      keep: The number of newest checkpoints that stay; the best by the validation bound stays as well.
      tensorboard: Whether TensorBoard event files are written too.
    """

    def __init__(self, folder: RunFolder, keep: int, tensorboard: bool):
        self.folder = folder
        self.keep = keep
        self.tensorboard = tensorboard
        self._last_time = (0, 0.0)

    def __enter__(self):
        self._stack = ExitStack()
        self._validation_bounds = self.folder.validation_bounds()
        writer = checkpoint.writer(self.folder.checkpoints, self.keep, self._validation_bounds)
        self._save, self.wait = self._stack.enter_context(writer)
        self._events = None
        if self.tensorboard:
            from tensorboardX import SummaryWriter

            self._events = self._stack.enter_context(SummaryWriter(str(self.folder.path / "tensorboard")))
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def log(self, row: dict[str, Any], train_seconds: float) -> None:
        """Writes the row of an evaluation, and the seconds of training up to it."""
        if row["split"] == "validation":
            self._validation_bounds[row["epoch"]] = row["elbo_nats"]
        self.folder.append(row)
        self.log_time(row["epoch"], row["step"], train_seconds)
        for name, value in row.items() if self._events else ():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._events.add_scalar(name, value, row["step"])

    def log_time(self, epoch: int, step: int, train_seconds: float) -> None:
        """Writes the seconds of training up to an evaluation or a checkpoint; once, where both are at the same step."""
        if (step, train_seconds) != self._last_time:
            row = {"epoch": epoch, "step": step, "train_seconds": train_seconds}
            self.folder.append(row, "timing.jsonl")
            self._last_time = (step, train_seconds)

    def save(self, epoch: int, state: train.TrainState) -> None:
        """Starts to write a checkpoint that is named by its epoch; `wait()` returns when it is written."""
        self._save(epoch, state)


class SilentRecorder:
    """A recorder that writes nothing. Of several processes that train together, only the first one writes."""

    def __init__(self, folder: RunFolder):
        del folder

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def log(self, row: dict[str, Any], train_seconds: float) -> None:
        del row, train_seconds

    def log_time(self, epoch: int, step: int, train_seconds: float) -> None:
        del epoch, step, train_seconds

    def save(self, epoch: int, state: train.TrainState) -> None:
        del epoch, state

    def wait(self) -> None:
        pass
