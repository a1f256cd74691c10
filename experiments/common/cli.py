"""What every entry point shares: bad input becomes one sentence on stderr and a non-zero exit, never a traceback."""

import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from experiments.common import interrupt

flags.DEFINE_string(
    "compilation_cache",
    "auto",
    "folder of compiled programs, so that the same command starts at once the next time: auto for one in the user's"
    " cache folder, none to do without; JAX_COMPILATION_CACHE_DIR goes before it",
)


def run(main: Callable[[], None], resumes: bool = False, hungry: tuple[str, ...] = ()) -> None:
    """`app.run(main)`, refusing stray positional arguments, which are mostly a forgotten `--` or a space in a list.

    `resumes`: whether the same command goes on from where it was stopped, which is said where it is. `hungry`: the
    flags that its memory grows with, the likeliest first.
    """

    def without_arguments(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}: settings are given as --name=value")
        logging.set_verbosity(logging.WARNING)  # else absl prints the libraries' hundreds of INFO lines
        # Orbax logs with a traceback what it raises as well, and warns of what a kill left behind.
        logging.get_absl_logger().addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
        sys.unraisablehook = _without_orphans
        interrupt.stop_at_once(resumes)
        _keep_compiled_programs(flags.FLAGS.compilation_cache)
        with _enough_memory(hungry):
            main()

    app.run(without_arguments, flags_parser=_parse)


def _without_orphans(unraisable) -> None:
    """Where one write of a checkpoint fails, what Orbax had begun beside it finds that nobody waits for it any more,
    and each would print a traceback beside the sentence."""
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _keep_compiled_programs(folder: str) -> None:
    if folder == "none" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if folder == "auto":
        # Programs for one processor may not run on another, and a cluster's machines share a home.
        info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        traits = {line for line in info if line.startswith(("flags", "model name", "Features", "CPU part"))}
        kind = hashlib.sha256("".join([platform.machine(), *sorted(traits)]).encode()).hexdigest()[:8]
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if home.startswith("~"):  # a user without a home
            return
        folder = Path(home) / "vae" / f"compiled-{kind}"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:
            value = flags.FLAGS[name].value
            if isinstance(value, int) and abs(value) >= 2**31:
                raise flags.IllegalFlagValueError(f"flag --{name}={value}: does not fit into 32 bits")
        return rest
    except flags.Error as error:
        hint = "" if "--help" in argv else "; --helpfull lists every flag"
        stop(f"{error}{hint}")


def given(define_flags: Callable[[flags.FlagValues], None], options: flags.FlagValues) -> dict[str, Any]:
    """The values that `options` has of the flags that `define_flags` defines."""
    names = flags.FlagValues()
    define_flags(names)
    return {name: options[name].value for name in names}


def module(name: str) -> str:
    """What `python -m` runs for the entry point `name`: that of the package that was started, where it has its own, as
    a paper's project does, for its estimator is known there alone; else that of this package."""
    started = sys.modules["__main__"].__spec__
    own = f"{started.parent}.{name}" if started and started.parent else ""
    return own if own and importlib.util.find_spec(own) else f"experiments.{name}"


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


@contextmanager
def _enough_memory(hungry: tuple[str, ...]) -> Iterator[None]:
    """Says which flags help where the device's memory, or the host's, does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # jax's own is a RuntimeError
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = f"; a smaller {' or '.join(f'--{name}' for name in hungry)} needs less" if hungry else ""
        runs = "; --sweep_mode=map trains runs one after the other" if "sweep_mode" in flags.FLAGS else ""
        reason = (str(error).strip().splitlines() or ["no more"])[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
        stop(f"memory does not suffice ({reason}){smaller}{runs}")


def stop(sentence: str) -> NoReturn:
    """Says what is wrong on stderr and exits with status 1.

    Names of files and what stands in them go into a sentence as they are, and nothing of them commands the terminal.
    """
    sentence = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)
