"""The grammar `name:option=value:option=value`, by which a command line chooses from a table of factories.

    choice = options.choose("gumbel_rao:inner_samples=100", ESTIMATORS)
    str(choice)                                                             # "gumbel_rao:inner_samples=100"
    estimator = options.build(choice, ESTIMATORS, num_samples=4)

The options of a name are those keyword arguments of its factory that have a number, a truth value or a word as default.
An option that equals its default is left out, so that `renyi` and `renyi:alpha=0.5` are the same choice.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from vae.estimators import BY_NAME, Entry

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Choice:
    """A name and the options that were given with it.

    Attributes:
      name: A name in a table.
      options: Pairs of an option's name and its value. `parse` leaves the values as text; `check` converts them.
    """

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{option}={_text(value)}" for option, value in self.options)])


@dataclasses.dataclass(frozen=True)
class Table:
    """The names that can be chosen.

    Attributes:
      noun: What a name stands for, as error messages call it: "estimator".
      entries: The table itself. It is read at each use, so entries that are added later are found.
      factory: A function from an entry of the table to its factory.
      reserved: Keyword arguments of the factories that the program passes itself; they are not options.
    """

    noun: str
    entries: Mapping[str, Any]
    factory: Callable[[Any], Callable] = lambda entry: entry
    reserved: tuple[str, ...] = ()

    def defaults(self, name: str) -> dict[str, Value]:
        """The options of a name, each with its default."""
        parameters = inspect.signature(self.factory(self.entries[name])).parameters
        simple = {key: p.default for key, p in parameters.items() if isinstance(p.default, Value)}
        return {key: default for key, default in simple.items() if key not in self.reserved}

    def values(self, choice: Choice) -> dict[str, Value]:
        """Every option of the choice with its value, given or default."""
        return self.defaults(choice.name) | dict(choice.options)


ESTIMATORS = Table("estimator", BY_NAME, factory=lambda entry: entry.make, reserved=("num_samples",))


def parse(text: str) -> Choice:
    """The choice that `text` spells, with values as text. Whether the name and the options exist is not checked.

    Raises:
      ValueError: If an option is given twice or has no value.
    """
    name, *assignments = text.split(":")
    given: dict[str, str] = {}
    for assignment in assignments:
        option, equals, value = assignment.partition("=")
        if not option or not equals or not value:
            raise ValueError(f"{text!r} is not of the form name:option=value; {assignment!r} is not option=value")
        if option in given:
            raise ValueError(f"{text!r} gives {option} twice; give it once")
        given[option] = value
    return Choice(name, tuple(given.items()))


def check(choice: Choice, table: Table) -> Choice:
    """The choice with values of the right types, in the order of the factory's arguments and without defaults.

    Raises:
      ValueError: If the table has no such name, the name has no such option, or a value has the wrong type. The
        sentence says which names or options exist.
    """
    if choice.name not in table.entries:
        close = difflib.get_close_matches(choice.name, table.entries, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"there is no {table.noun} {choice.name!r}{hint}; choose one of {', '.join(table.entries)}")
    defaults = table.defaults(choice.name)
    for option, _ in choice.options:
        if option not in defaults:
            listed = ", ".join(f"{key}={_text(default)}" for key, default in defaults.items())
            hint = f"its options are {listed}" if defaults else "it has no options"
            raise ValueError(f"{choice.name} has no option {option!r}; {hint}")
    given = {option: _convert(option, value, type(defaults[option])) for option, value in choice.options}
    return Choice(
        choice.name, tuple((key, given[key]) for key in defaults if given.get(key, defaults[key]) != defaults[key])
    )


def choose(text: str, table: Table) -> Choice:
    """The choice that `text` spells, parsed and checked."""
    return check(parse(text), table)


def build(choice: Choice, table: Table, **arguments) -> Any:
    """What the factory of the choice returns for its options and these further arguments.

    Raises:
      ValueError: If the factory refuses the options; the sentence begins with the choice.
    """
    try:
        return table.factory(table.entries[choice.name])(**dict(choice.options) | arguments)
    except ValueError as error:
        raise ValueError(f"{choice}: {error}") from None


def is_printable(text: str) -> bool:
    """Whether the text is free of control characters, which could steer a terminal. Spaces of all kinds are allowed."""
    return not any(unicodedata.category(character)[0] == "C" for character in text)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _convert(option: str, value: Value, kind: type[Value]) -> Value:
    text = _text(value)
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{option}={text} is not true or false")
        return text == "true"
    if kind is str:
        if not is_printable(text):
            raise ValueError(f"{option}={text!r} cannot be printed")
        return text
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{option}={text} is not {'an integer' if kind is int else 'a number'}") from None
    if not math.isfinite(number):
        raise ValueError(f"{option}={text} is not a finite number")
    return number


# --- Estimators whose temperature is a flag: this section goes when the settings take every option from its name.


def entry(text: str) -> Entry:
    """The entry of the table, with these options in place of its own defaults."""
    choice = choose(text, ESTIMATORS)
    found = BY_NAME[choice.name]
    if not choice.options:
        return found
    return dataclasses.replace(found, make=functools.partial(found.make, **dict(choice.options)))


def tempered() -> list[str]:
    """Names of the estimators that have a temperature."""
    return [name for name in BY_NAME if has_temperature(name)]


def has_temperature(text: str) -> bool:
    """Whether it has one that is not given behind its name."""
    return "temperature" in ESTIMATORS.defaults(parse(text).name) and ":temperature=" not in text


def temperature_of(text: str, chosen: float = 0.0) -> float:
    """At which it relaxes: `chosen`, where that is not 0 and its own is not given behind its name; 0 if it has none."""
    own = ESTIMATORS.values(choose(text, ESTIMATORS)).get("temperature", 0.0)
    return chosen if chosen and has_temperature(text) else own
