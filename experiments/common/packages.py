"""Packages of your own, which --import and VAE_IMPORT name, and functions that other flags name as module:function."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

IMPORT_VARIABLE = "VAE_IMPORT"


def define_import(flag_values: flags.FlagValues) -> None:
    """Defines --import."""
    flags.DEFINE_list(
        "import",
        [],
        "Python packages with estimators, posteriors, objectives or data sets of your own, comma-separated. They are"
        f" imported before the other flags are read. The environment variable {IMPORT_VARIABLE} names more.",
        flag_values=flag_values,
    )


def imported() -> tuple[str, ...]:
    """The packages that --import and VAE_IMPORT name, in this order, without duplicates."""
    return tuple(_sources())


def _sources() -> dict[str, str]:
    """Each package, and what names it first: --import or VAE_IMPORT."""
    values = flags.FlagValues()
    define_import(values)
    values(["", *sys.argv[1:]], known_only=True)  # no other flag is read here
    named = {"--import": values["import"].value, IMPORT_VARIABLE: os.environ.get(IMPORT_VARIABLE, "").split(",")}
    sources: dict[str, str] = {}
    for source, names in named.items():
        for name in filter(None, map(str.strip, names)):
            sources.setdefault(name, source)
    return sources


def import_all() -> None:
    """Imports the packages, so that the flags and tables know what they add.

    Raises:
      flags.Error: If there is no such package. An error inside a package is of another kind.
    """
    for name, source in _sources().items():
        if not all(part.isidentifier() for part in name.split(".")):
            stem = Path(name).stem
            example = stem if stem.isidentifier() else "my_estimator"
            raise flags.Error(
                f"{source}={name}: give the module's name without folder and .py, such as {source}={example}"
            )
        where = "start the command in the folder that holds the package, or add this folder to PYTHONPATH"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not _is_missing(error, name):  # an import inside the package failed
                raise
            raise flags.Error(f"{source}={name}: there is no package {error.name!r}; {where}") from None
        if hasattr(module, "__path__") and module.__file__ is None:  # Python takes any folder for a package
            folder = next(iter(module.__path__))
            raise flags.Error(f"{source}={name}: {folder} has no __init__.py, so nothing was imported; {where}")


def _is_missing(error: Exception, module: str) -> bool:
    """Whether an import failed because there is no such module, or because a package that should hold it is missing."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name or ''}.")


def load_function(text: str, flag: str, arguments: tuple[str, ...] = ()) -> Callable:
    """The function `module:function` that a flag names, from the current directory or an installed package.

    Args:
      flag: The name of the flag.
      arguments: What the function is called with, such as "a learning rate"; nothing by default.

    Raises:
      ValueError: If there is no such module or function, or if it does not take these arguments alone. The sentence
        begins with the flag.
    """
    cannot = f"--{flag}={text} cannot be"
    module, _, function = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        if module and not _is_missing(error, module):  # an import inside the module failed
            raise
        raise ValueError(f"{cannot} imported: {error}; give module:function") from None
    finally:
        sys.path.pop(0)
    if not hasattr(imported, function):
        raise ValueError(f"{cannot} imported: module {module!r} has no attribute {function!r}; give module:function")
    loaded = getattr(imported, function)
    try:
        inspect.signature(loaded).bind(*arguments)
    except (TypeError, ValueError):  # it needs other arguments, or is not a function, or hides its arguments
        called = f"with {' and '.join(arguments)} alone" if arguments else "without arguments"
        needed = f"takes {' and '.join(arguments)}" if arguments else "needs no arguments"
        raise ValueError(f"{cannot} called {called}; give a function that {needed}") from None
    return loaded
