"""What happens when a run is asked to stop: SIGTERM (a scheduler), SIGINT (Ctrl-C), SIGUSR1 (SLURM before a requeue).

Every entry point stops with a sentence that says how to go on. While it trains, a run first finishes its epoch and
saves; a second SIGINT does not wait for that.
"""

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def stop_at_once() -> None:
    """From here on each of the signals ends the process, with a sentence and status 128 + its number."""
    for number in SIGNALS:
        signal.signal(number, _stop_at_once)


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    del frame
    _say(signal.Signals(number))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)  # Python's own end would tear the compiler's threads down while they run: it crashes


def stop(asked: signal.Signals, when: str) -> None:
    """Says that and how one goes on, and exits."""
    _say(asked, when)
    sys.exit(128 + asked)


def _say(asked: signal.Signals, when: str = "") -> None:
    sentence = f"stopped by {asked.name}{when}; what is done is kept, and the same command goes on from there"
    print(sentence, file=sys.stderr)


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
