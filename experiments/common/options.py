"""An estimator as the command line spells it: its name, or its name and options, as gumbel_rao:inner_samples=100 and
nvil:decay=0.9:hidden=50."""

import functools
import inspect
import math

from vae.estimators import BY_NAME, Entry


def entry(text: str) -> Entry:
    """The entry of the table, with these options in place of its own defaults.

    Raises:
      ValueError: what is not known or cannot be, and what would work.
    """
    name, *given = text.split(":")
    if name not in BY_NAME:
        raise ValueError(f"{name!r} is not one of {', '.join(BY_NAME)}")
    found, chosen = BY_NAME[name], {}
    known = options(found)
    for one in given:
        option, _, value = one.partition("=")
        if option not in known:
            able = f"its options are {', '.join(f'{n}={v}' for n, v in known.items())}" if known else "it has none"
            raise ValueError(f"{name} has no option {option!r}; {able}")
        if option in chosen:
            raise ValueError(f"{text!r} gives {option} twice")
        chosen[option] = _value(option, value, type(known[option]))
    return found._replace(make=functools.partial(found.make, **chosen)) if chosen else found


def options(found: Entry) -> dict[str, object]:
    """What can stand behind the name, with its default: numbers, truth values and words."""
    parameters = inspect.signature(found.make).parameters
    simple = {name: p.default for name, p in parameters.items() if isinstance(p.default, bool | int | float | str)}
    return {name: default for name, default in simple.items() if name not in ("num_samples", "by_layer")}


def tempered() -> list[str]:
    """Names of the estimators that have a temperature."""
    return [name for name in BY_NAME if has_temperature(name)]


def has_temperature(text: str) -> bool:
    """Whether it has one that is not given behind its name."""
    return "temperature" in options(entry(text)) and ":temperature=" not in text


def temperature_of(text: str, chosen: float = 0.0) -> float:
    """At which it relaxes: `chosen`, where that is not 0 and its own is not given behind its name; 0 if it has none."""
    return chosen if chosen and has_temperature(text) else options(entry(text)).get("temperature", 0.0)


def _value(option: str, text: str, kind: type):
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        value = kind(text) if kind is not bool else None
    except ValueError:
        value = None
    if value is None or isinstance(value, float) and not math.isfinite(value):
        wanted = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise ValueError(f"{option}={text} is not {wanted}")
    return value
