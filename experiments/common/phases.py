"""What a command is doing, in lines with the seconds since the command began.

phases.say("evaluating")                               prints: evaluating (after 95 s)
for case in phases.each(cases, "measuring", name):     prints: measuring 2 of 11: nvil K=1 (after 5 s)
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

MINUTE = 60  # seconds
_STARTED = time.monotonic()


def say(phase: str) -> None:
    """Prints the name of a phase that begins, at once also into a file or a pipe."""
    print(f"{phase} (after {time.monotonic() - _STARTED:.0f} s)", flush=True)


def each(items: Sequence[Item], title: str, name: Callable[[Item], str] = str) -> Iterator[Item]:
    """The items. A terminal shows a progress bar; elsewhere, a line is printed before each item."""
    if sys.stdout.isatty():
        bar = tqdm(items, title, leave=False)
        for item in bar:
            bar.set_postfix_str(name(item))
            yield item
        return
    for i, item in enumerate(items, start=1):
        say(f"{title} {i} of {len(items)}: {name(item)}")
        yield item


@contextlib.contextmanager
def steps(total: int, done: int = 0, unit: str = "step") -> Iterator[Callable[[int, str], None]]:
    """A context with a function `advance(number, where)`, which counts further steps, or other units.

    A terminal shows a progress bar; elsewhere, a line says once a minute where the steps are.
    """
    last = time.monotonic()
    with tqdm(total=total, initial=done, unit=unit, disable=not sys.stdout.isatty()) as bar:

        def advance(number: int, where: str) -> None:
            nonlocal last
            bar.update(number)
            bar.set_postfix_str(where)
            if bar.disable and time.monotonic() - last >= MINUTE:
                last = time.monotonic()
                say(where)

        yield advance


@contextlib.contextmanager
def images(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A context with a function `count(number)`, which counts further images. They are shown as `steps` shows steps."""
    done = 0
    with steps(total, unit="image") as advance:

        def count(number: int) -> None:
            nonlocal done
            done += number
            advance(number, f"{title}, image {done:,} of {total:,}")

        yield count
