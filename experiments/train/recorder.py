"""Writes the files of a program while it trains: metrics.jsonl, timing.jsonl and checkpoints, of each run."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from experiments.common.run_folder import RunFolder
from vae import checkpoint
from vae.train import TrainState


class Recorder:
    """A context that writes the evaluations and checkpoints of a program's runs.

    Args:
      folders: The folders of the runs.
      keep: The number of newest checkpoints to keep. The checkpoint with the best validation bound is kept as well.
      tensorboard: Whether to write TensorBoard event files too.
      silent: Whether to write nothing. When several processes train together, only the first process writes.
    """

    def __init__(self, folders: list[RunFolder], *, keep: int, tensorboard: bool, silent: bool):
        self.folders = folders
        self.silent = silent
        self._keep = keep
        self._tensorboard = tensorboard
        self._last_times = [(0, 0.0)] * len(folders)

    def __enter__(self):
        self._stack = ExitStack()
        self._bounds = [folder.validation_bounds() for folder in self.folders]
        self._writers = []
        self._events = []
        for folder, bounds in zip(self.folders, self._bounds, strict=True) if not self.silent else ():
            self._writers.append(self._stack.enter_context(checkpoint.writer(folder.checkpoints, self._keep, bounds)))
            if self._tensorboard:
                from tensorboardX import SummaryWriter

                self._events.append(self._stack.enter_context(SummaryWriter(str(folder.path / "tensorboard"))))
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def log(self, i: int, row: dict[str, Any], train_seconds: float) -> None:
        """Writes the row of an evaluation of run i, and the seconds of training up to the evaluation."""
        if self.silent:
            return
        if row["split"] == "validation":
            self._bounds[i][row["epoch"]] = row["elbo_nats"]
        self.folders[i].append(row)
        self._log_time(i, row["epoch"], row["step"], train_seconds)
        if self._events:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._events[i].add_scalar(name, value, row["step"])

    def save(self, epoch: int, step: int, train_seconds: float, state_of_run: Callable[[int], TrainState]) -> None:
        """Starts to write a checkpoint of every run.

        Args:
          state_of_run: Returns the state of run i. Every process calls it, also a silent one.
        """
        for _, wait in self._writers:
            wait()  # so that all runs still have one epoch in common if the process is killed now
        for i in range(len(self.folders)):
            state = state_of_run(i)
            if not self.silent:
                self._log_time(i, epoch, step, train_seconds)
                save, _ = self._writers[i]
                save(epoch, state)

    def _log_time(self, i: int, epoch: int, step: int, train_seconds: float) -> None:
        """Writes the seconds of training, once if an evaluation and a checkpoint are at the same step."""
        if (step, train_seconds) != self._last_times[i]:
            row = {"epoch": epoch, "step": step, "train_seconds": train_seconds}
            self.folders[i].append(row, "timing.jsonl")
            self._last_times[i] = (step, train_seconds)
