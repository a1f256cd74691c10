"""The hook of the user: --on_evaluation=module:function is called after each evaluation, and with each result."""

import sys
import traceback
from collections.abc import Callable
from typing import Any

from experiments.common import cli, packages
from experiments.common.program_folder import ProgramFolder
from experiments.common.program_state import select_run
from experiments.train import multihost
from vae.train import TrainState

Row = dict[str, Any]
Function = Callable[[Row, TrainState], Any]


def load(text: str) -> Function:
    """The function that --on_evaluation names.

    Raises:
      ValueError: If there is no such function of a row and a state.
    """
    return packages.load_function(text, "on_evaluation", ("a row", "a state"))


class Hook:
    """Calls the user's function for the runs of a program, in the first process, until it raises an exception."""

    def __init__(self, function: Function, folder: ProgramFolder):
        self._function: Function | None = function
        self._folder = folder
        self._settings = [run.json() for run in folder.runs()]

    def __call__(self, rows: list[Row], state: TrainState) -> None:
        """Calls the function for each row with the state of its run.

        A sentence on stderr reports an exception; no run is lost to it.

        Args:
          rows: Rows of metrics.jsonl, or results with the number of the run as "run" and the epoch of its state. The
            function also gets the seconds of training so far.
          state: The state of all runs, as NumPy arrays.
        """
        if not multihost.is_first():
            return
        times = {"train_seconds": max(self._folder.seconds().values(), default=0.0)}
        for row in rows:
            if self._function is None:
                return
            own = {"folder": str(self._folder.path), **self._settings[row["run"]], **row, **times}
            try:
                self._function(own, select_run(state, row["run"]))
            except Exception as error:
                function, self._function = self._function, None
                name = f"{function.__module__}:{getattr(function, '__name__', function)}"
                reason = cli.first_line(error, "no reason given")
                frames = traceback.extract_tb(error.__traceback__)
                file = getattr(sys.modules.get(function.__module__), "__file__", None)
                place = ([frame for frame in frames if frame.filename == file] or frames)[-1]
                print(
                    f"--on_evaluation={name} failed at step {row['step']} ({type(error).__name__}: {reason}, in line"
                    f" {place.lineno} of {place.filename}); it is not called again, and the training goes on",
                    file=sys.stderr,
                )
