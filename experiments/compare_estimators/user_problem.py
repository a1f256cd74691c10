"""A problem that the user wrote, given as --problem=module:function."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import problems
from experiments.common.problems import Problem


def is_users(text: str) -> bool:
    """Whether the text names a function of the user, module:function, and not a known problem with options."""
    name, colon, rest = text.partition(":")
    return bool(colon) and name not in problems.BY_NAME and "=" not in rest


def load(text: str) -> Callable[[], Any]:
    """The function `module:function`, from the current directory or an installed package.

    Raises:
      ValueError: if there is no such module or function, or if the function needs arguments.
    """
    module, _, function = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--problem={text} cannot be imported: {error}; give module:function") from None
    finally:
        sys.path.pop(0)
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError):  # arguments are needed, or `make` is not a function or hides its arguments
        raise ValueError(f"--problem={text} cannot be called as it is; give a function without arguments") from None
    return make


def check(problem: Any, text: str) -> Problem:
    """Returns the problem unchanged, if it is one.

    Raises:
      ValueError: if the user's function returned something else.
    """
    if not isinstance(problem, Problem):
        raise ValueError(
            f"--problem={text} returned a {type(problem).__name__}; return an experiments.common.problems.Problem"
        )
    return problem
