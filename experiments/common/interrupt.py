"""What happens when an entry point is asked to stop: SIGTERM (a scheduler), SIGINT (Ctrl-C), SIGUSR1 (SLURM, before it
requeues). It stops with a sentence; a run that trains first finishes its epoch and saves, unless SIGINT comes twice.
"""

import functools
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def stop_at_once(resumes: bool) -> None:
    """From here on each of the signals ends the process, with a sentence and status 128 + its number; `resumes` is
    whether the same command goes on from where it was."""
    for number in SIGNALS:
        signal.signal(number, functools.partial(_leave_at_once, resumes))


def _leave_at_once(resumes: bool, number: int, frame: FrameType | None) -> NoReturn:
    """Neither by `print`, which may be what was interrupted, nor by Python's own end, which would tear down the
    compiler's threads while they run."""
    del frame
    try:
        os.write(2, _sentence(signal.Signals(number), resumes).encode())
    finally:
        os._exit(128 + number)


def leave(asked: signal.Signals, when: str) -> NoReturn:
    """Says that and how one goes on, and exits."""
    print(_sentence(asked, True, when), end="", file=sys.stderr)
    sys.exit(128 + asked)


def _sentence(asked: signal.Signals, resumes: bool, when: str = "") -> str:
    return f"stopped by {asked.name}{when}; the same command {'takes it up again' if resumes else 'starts anew'}\n"


class Watch:
    """A context in which the signals are only noted: `asked` is the first of them, None before."""

    def __init__(self):
        self.asked: signal.Signals | None = None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT and callable(self._before[number]):
            self._before[number](number, frame)
        self.asked = self.asked or signal.Signals(number)
