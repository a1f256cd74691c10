"""How a command stops when it is asked to: by SIGTERM (a scheduler), SIGINT (Ctrl-C) or SIGUSR1 (SLURM, before it
requeues a job).

A command says in one sentence that it stopped. A command that trains first finishes its epoch and saves, unless Ctrl-C
is pressed twice.
"""

import functools
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def stop_at_once(resumes: bool) -> None:
    """Lets each signal end the process from now on, with one sentence and the exit status 128 + signal number.

    Args:
      resumes: Whether the same command would continue where this one stopped; the sentence says so.
    """
    for number in SIGNALS:
        signal.signal(number, functools.partial(_exit_at_once, resumes))


def _exit_at_once(resumes: bool, number: int, frame: FrameType | None) -> NoReturn:
    # Python's `print` and `sys.exit` are not safe here. The signal may have interrupted a `print`, and a normal exit
    # destroys the threads of XLA's compiler while they work, which crashes with a stack trace.
    del frame
    try:
        os.write(2, _sentence(signal.Signals(number), resumes).encode())
    finally:
        os._exit(128 + number)


def stop_after_saving(asked: signal.Signals, when: str) -> NoReturn:
    """Says that the run stopped and that the same command continues it, and exits.

    `when` follows the words "stopped by SIGNAL" and begins with a space.
    """
    print(_sentence(asked, True, when), end="", file=sys.stderr)
    sys.exit(128 + asked)


def _sentence(asked: signal.Signals, resumes: bool, when: str = "") -> str:
    return f"stopped by {asked.name}{when}; the same command {'continues' if resumes else 'starts again'}\n"


class Watch:
    """A context in which a signal is remembered and nothing is interrupted, except by a second Ctrl-C.

    Attributes:
      asked: The first signal that arrived; None before.
    """

    def __init__(self):
        self.asked: signal.Signals | None = None

    def __enter__(self):
        self._handlers_before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers_before[number]
        if self.asked and number == signal.SIGINT and callable(handler):
            handler(number, frame)
        self.asked = self.asked or signal.Signals(number)
