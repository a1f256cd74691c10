"""Writes the files of a program while it trains: metrics.jsonl, timing.jsonl and checkpoints."""

from contextlib import ExitStack
from typing import Any

from experiments.common.program_folder import ProgramFolder
from experiments.common.program_state import Progress
from vae import checkpoint


class Recorder:
    """A context that writes the evaluations and checkpoints of a program.

    Args:
      folder: The folder of the program.
      keep: The number of newest checkpoints to keep.
      tensorboard: Whether to write TensorBoard event files too.
      first_step: The first step that is trained now. TensorBoard hides events of this and later steps that were written
        before.
    """

    def __init__(self, folder: ProgramFolder, keep: int, tensorboard: bool, first_step: int):
        self.folder = folder
        self._keep = keep
        self._tensorboard = tensorboard
        self._first_step = first_step
        self._last_epoch = 0

    def __enter__(self):
        self._stack = ExitStack()
        self._save, _ = self._stack.enter_context(checkpoint.writer(self.folder.checkpoints, self._keep))
        self._events = []
        if self._tensorboard:
            from tensorboardX import SummaryWriter

            names = self.folder.run_names()
            events = self.folder.path / "tensorboard"
            for path in [events / name for name in names] if len(names) > 1 else [events]:
                writer = SummaryWriter(str(path), purge_step=self._first_step)
                self._events.append(self._stack.enter_context(writer))
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def log(self, epoch: int, step: int, rows: list[dict[str, Any]], train_seconds: float) -> None:
        """Writes the rows of an evaluation, and the seconds of training up to it."""
        self.folder.append(rows)
        self._log_time(epoch, step, train_seconds)
        for row in rows if self._events else ():
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("run", "step", "epoch"):
                    self._events[row["run"]].add_scalar(name, value, step)

    def save(self, epoch: int, step: int, train_seconds: float, progress: Progress) -> None:
        """Starts to write a checkpoint."""
        self._log_time(epoch, step, train_seconds)
        self._save(epoch, progress)

    def _log_time(self, epoch: int, step: int, train_seconds: float) -> None:
        """Writes the seconds of training, once if an evaluation and a checkpoint are at the same epoch."""
        if epoch != self._last_epoch:
            row = {"epoch": epoch, "step": step, "train_seconds": train_seconds}
            self.folder.append([row], "timing.jsonl")
            self._last_epoch = epoch
