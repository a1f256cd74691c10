"""What every entry point shares: bad input becomes one sentence on stderr and a non-zero exit, never a traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from absl import app, flags, logging


def run(main: Callable[[], None]) -> None:
    """`app.run(main)`, refusing stray positional arguments, which are mostly a forgotten `--` or a space in a list."""

    def without_arguments(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}: settings are given as --name=value")
        logging.set_verbosity(logging.WARNING)  # else absl prints the libraries' hundreds of INFO lines
        main()

    app.run(without_arguments, flags_parser=_parse)


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        hint = "" if "--help" in argv else "; --helpfull lists every flag"
        stop(f"{error}{hint}")


@contextmanager
def one_sentence(*kinds: type[Exception]) -> Iterator[None]:
    """Turns what bad input raises into one sentence and exit status 1.

    `kinds` are ValueError, NotImplementedError and OSError where none are given. Around long work give OSError alone: a
    full disk is the user's to mend, any other error is ours and keeps its traceback.
    """
    refused = kinds or (ValueError, NotImplementedError, OSError)
    try:
        yield
    except refused as error:
        if isinstance(error, OSError) and error.strerror:
            stop(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        stop(str(error))


def stop(sentence: str) -> None:
    """Says what is wrong on stderr and exits with status 1."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(1)
