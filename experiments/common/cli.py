"""The frame of every command: flags, and one sentence instead of a traceback for bad input.

if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
"""

import difflib
import gc
import hashlib
import os
import platform
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from jax.experimental.compilation_cache import compilation_cache

from experiments.common import interrupt, jax_settings, packages

packages.define_import(flags.FLAGS)
flags.DEFINE_string(
    "compilation_cache",
    "auto",
    "Folder of compiled programs, so that the same command starts at once the next time. auto: the folder in"
    " JAX_COMPILATION_CACHE_DIR, or else a folder in the user's cache; none: no folder.",
)


def run(
    main: Callable[[], None], resumes: bool | Callable[[], bool] = False, memory_flags: tuple[str, ...] = ()
) -> None:
    """Parses the command line and calls `main`.

    Args:
      main: The command, without arguments.
      resumes: Whether the same command, started again, continues where it was stopped. The message after a signal says
        so. A function is called once the flags are parsed.
      memory_flags: Flags that increase the use of memory, the most likely cause first. The error about too little
        memory names them.
    """

    def guarded(_: list[str]) -> None:
        _quiet_libraries()
        _print_warnings_in_one_line()
        jax_settings.fix()
        _check_platforms()
        interrupt.stop_at_once(resumes() if callable(resumes) else resumes)
        _use_compilation_cache(flags.FLAGS.compilation_cache)
        with _enough_memory(memory_flags), _a_device():
            main()

    _replace_characters_that_cannot_be_shown()
    _collect_less_garbage()
    app.run(guarded, flags_parser=_parse)


# --- Flags


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with one sentence for a wrong flag."""
    try:
        packages.import_all()
        if {"--help", "-help", "-h"} & set(argv[1:]):
            print(_help())
            sys.exit()
        try:
            _, *stray = flags.FLAGS(argv)
        except ValueError as error:  # absl's for --noname=value; the argument is its first word
            negated = str(error).partition("=")[0]
            positive = f"{negated.replace('no', '', 1)}=false"
            raise flags.Error(f"{negated} takes no value; give {negated} or {positive}") from None
        if stray:  # most often a forgotten --, or a space in a list
            stop(
                f"unexpected argument {stray[0]!r}; write flags as --name=value, and lists without spaces, as in"
                " --seed=0,1"
            )
        for name in flags.FLAGS:
            value = flags.FLAGS[name].value
            if isinstance(value, int) and abs(value) >= 2**31:
                stop(f"--{name}={value} does not fit into 32 bits")
        return argv[:1]
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, flags.FLAGS, n=1, cutoff=0.8)
        hint = f"did you mean --{close[0]}?" if close else "--help lists the flags"
        stop(f"there is no flag --{error.flagname}; {hint}")
    except flags.Error as error:
        stop(_in_our_words(str(error)))


def _in_our_words(sentence: str) -> str:
    """absl's sentence about the value of a flag, without Python's words and without a repeated flag."""
    sentence = sentence.removeprefix("flag ")
    sentence = sentence.replace("invalid literal for int() with base 10:", "not an integer:")
    sentence = sentence.replace("could not convert string to float:", "not a number:")
    sentence = sentence.replace(" is not integer ", " is not an integer ")
    sentence = sentence.replace(" is not number ", " is not a number ")
    return re.sub(r"^(--\S+): (?=\1 )", "", sentence)


def _help() -> str:
    """The description of the command, and its flags in the order in which they are defined; absl sorts them by name."""
    sections = [sys.modules["__main__"].__doc__ or ""]
    shared = []
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module in (__name__, packages.__name__):
            shared += [_describe(flag) for flag in defined]
        elif module == sys.argv[0] or module.startswith("experiments."):
            sections += [_describe(flag) for flag in defined]
    return "\n".join([*sections, *shared, "  --helpfull also lists the flags of absl."])


def _describe(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = "" if flag.value in (None, ()) else f"={flag.default_as_str.strip(chr(39))}"
    choices = flag.parser.syntactic_help
    text = f"{flag.help} ({choices})" if choices else flag.help
    return f"  {name}{default}\n" + textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)


def given(define_flags: Callable[[flags.FlagValues], None], options: flags.FlagValues) -> dict[str, Any]:
    """The values that `options` has for the flags that `define_flags` defines."""
    names = flags.FlagValues()
    define_flags(names)
    return {name: options[name].value for name in names}


def command(name: str, *arguments: str) -> str:
    """The line that starts the command `name` with these arguments and the packages of this process."""
    imported = packages.imported()
    imports = [f"--import={','.join(imported)}"] if imported else []
    return shlex.join(["python", "-m", f"experiments.{name}", *imports, *arguments])


def this_command() -> str:
    """The line that starts this process, with the packages of the environment variable."""
    here = sys.orig_argv[1:]
    added = [f"--import={','.join(packages.imported())}"] if os.environ.get(packages.IMPORT_VARIABLE) else []
    return shlex.join(["python", *here, *added])


# --- Errors


@contextmanager
def one_sentence(*kinds: type[Exception]) -> Iterator[None]:
    """Turns an exception of these kinds into one sentence on stderr and exit status 1.

    The default kinds, ValueError, NotImplementedError and OSError, are those of bad input. Long work should be wrapped
    with OSError alone: the user can mend a full disk, but any other error is a bug, and its traceback is needed.
    """
    kinds = kinds or (ValueError, NotImplementedError, OSError)
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.strerror:
            stop(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        stop(with_flags(str(error), flags.FLAGS))


def with_flags(sentence: str, names: Iterable[str]) -> str:
    """The sentence of an error with dashes before the arguments that are flags of these names.

    The library names arguments, `validation_size=3`; the user of a command knows them as `--validation_size=3`.
    """
    known = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<![\w.:/=,-])({known})=", r"--\1=", sentence)


@contextmanager
def _enough_memory(memory_flags: tuple[str, ...]) -> Iterator[None]:
    """Turns an out-of-memory error of the device or the host into one sentence that names the flags that help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # jax raises a RuntimeError
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = f"; a smaller {' or '.join(f'--{name}' for name in memory_flags)} needs less" if memory_flags else ""
        runs = "; --sweep_mode=map trains runs one after the other" if "sweep_mode" in flags.FLAGS else ""
        reason = first_line(error, "no more").removeprefix("RESOURCE_EXHAUSTED: ")
        stop(f"memory does not suffice ({reason}){smaller}{runs}")


def _check_platforms() -> None:
    """Refuses a JAX_PLATFORMS without the CPU, on which FLOP are counted and exact gradients are computed."""
    platforms = jax.config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        stop(f"JAX_PLATFORMS={platforms} leaves out the CPU; unset the variable, or set JAX_PLATFORMS={platforms},cpu")


@contextmanager
def _a_device() -> Iterator[None]:
    """Turns the error of a JAX_PLATFORMS without a device into one sentence, whenever jax first needs a device."""
    try:
        yield
    except (RuntimeError, AssertionError):
        platforms = os.environ.get("JAX_PLATFORMS")
        if platforms and not _finds_devices():
            stop(
                f"jax finds no device for JAX_PLATFORMS={platforms}; unset the variable, or install jax for this device"
            )
        raise


def _finds_devices() -> bool:
    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):  # the second if a plugin is installed and finds nothing
        return False


@contextmanager
def drawing(folder: Path) -> Iterator[None]:
    """Turns any exception into one sentence on stderr and goes on, because no result may be lost to a picture.

    The exceptions of matplotlib, of the fonts and of the files that users configure have no common type.
    """
    try:
        yield
    except Exception as error:
        reason = first_line(error, "no reason given")
        print(f"pictures are missing in {folder} ({type(error).__name__}: {reason})", file=sys.stderr)


def first_line(error: Exception, otherwise: str) -> str:
    """The first line of an error's message without its full stop; `otherwise` if the error has no message."""
    return (str(error).strip().splitlines() or [otherwise])[0].rstrip(".")


def stop(sentence: str) -> NoReturn:
    """Prints the sentence on stderr and exits with status 1.

    Sentences quote names of files and their contents. Characters that could steer the terminal are escaped.
    """
    sentence = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


# --- Libraries


def _replace_characters_that_cannot_be_shown() -> None:
    """Lets a terminal or a log file that has no ± show a question mark instead of stopping the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that somebody put in its place may lack it
            stream.reconfigure(errors="replace")


def _collect_less_garbage() -> None:
    """Saves the tenth of a short command that the garbage collector takes with Python's thresholds.

    Imports and traces make many objects that stay, and the collector would visit all of them again and again.
    """
    gc.freeze()
    gc.set_threshold(20_000)


def _quiet_libraries() -> None:
    """Silences messages of libraries that say nothing to the user of a command."""
    logging.set_verbosity(logging.WARNING)  # the libraries would print hundreds of INFO lines
    # Orbax logs every exception that it raises, with a traceback, and warns about what a killed process left behind.
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    sys.unraisablehook = _ignore_closed_event_loop
    os.environ["MPLBACKEND"] = "agg"  # under an unknown back end, matplotlib could not even be imported


def _print_warnings_in_one_line() -> None:
    """Leaves out the place in the code, and the line of it, that Python would print with a warning."""
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"


def _ignore_closed_event_loop(unraisable) -> None:
    """Hides the tracebacks of checkpoint writes that Orbax abandons because another write failed.

    The failure itself has been reported by then.
    """
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _use_compilation_cache(choice: str) -> None:
    """Lets jax read and write compiled programs in the folder that --compilation_cache names, or in none.

    jax would store only programs that take a second to compile. The environment may say which are stored.
    """
    if not choice:
        stop("--compilation_cache is empty; give a folder, auto or none")
    compilation_cache.reset_cache()  # a package of --import may have compiled already
    if choice != "auto":
        jax.config.update("jax_enable_compilation_cache", choice != "none")
    if choice == "none":
        return
    folder = choice if choice != "auto" else os.environ.get("JAX_COMPILATION_CACHE_DIR") or _users_cache()
    if folder:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        least = {"jax_persistent_cache_min_compile_time_secs": 0.1, "jax_persistent_cache_min_entry_size_bytes": -1}
        for name, value in least.items():
            if name.upper() not in os.environ:
                jax.config.update(name, value)


def _users_cache() -> Path | None:
    """A folder in the user's cache for this kind of processor; None for a user without a home.

    The machines of a cluster share a home, and a program that was compiled for one processor may crash on another.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if home.startswith("~"):
        return None
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    traits = {line for line in lines if line.startswith(("flags", "model name", "Features", "CPU part"))}
    kind = hashlib.sha256("".join([platform.machine(), *sorted(traits)]).encode()).hexdigest()[:8]
    return Path(home) / "vae" / f"compiled-{kind}"
