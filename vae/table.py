"""Tables of names: estimators, objectives, data sets and the parts of models are each chosen from one.

    models.POSTERIORS.make("categorical", categories=8)     # what the factory of that name returns
    models.POSTERIORS.add("mine", make_mine)                # the command line then accepts --posterior=mine

An entry is a factory. Its keyword arguments are the options of its name: `make_mine(layers: int = 4)` gives
`--posterior=mine:layers=2`.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The types that an option may have.
Value = bool | int | float | str

_signature = functools.cache(inspect.signature)  # a large sweep asks for the same few signatures thousands of times


class Table(dict[str, Any]):
    """Entries by name.

    Attributes:
      noun: what a name stands for, as error messages call it: "posterior".
      leading: number of positional arguments that the caller passes to a factory; they are not options.
      reserved: names of other arguments that the caller may pass; they are not options.
      join: the function that makes one thing of several, if names may be joined by "+", as in "categorical+normal".
    """

    def __init__(
        self, noun: str, entries: Mapping[str, Any] | None = None, leading: int = 0, reserved: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.noun = noun
        self.leading = leading
        self.reserved = reserved
        self.join: Callable[[tuple], Any] | None = None
        for name, entry in (entries or {}).items():
            self.add(name, entry)

    def add(self, name: str, entry: Any) -> None:
        """Adds an entry, so that the library and the command line know it by its name.

        Raises:
          ValueError: if the name is taken, or if the entry is not a factory that works without options.
        """
        if name in self:
            raise ValueError(f"the {self.noun} {name} exists already; choose another name")
        factory = self.factory(entry)
        try:
            _signature(factory).bind(*[None] * self.leading)
        except TypeError as error:
            raise ValueError(
                f"the {self.noun} {name} needs a factory that works without options ({error}); if this is the "
                f"{self.noun} itself, add a function that returns it"
            ) from None
        self[name] = entry

    def find(self, name: str) -> Any:
        """The entry with this name, or the entry of several names that are joined by "+".

        Raises:
          ValueError: if there is none. The sentence suggests a similar name and lists all.
        """
        if "+" in name and self.join:
            return self.joined(name)
        if name not in self:
            close = difflib.get_close_matches(name, self, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            if name.partition(":")[0] in self:
                hint = " (in Python, the options of a name are keyword arguments of `make`)"
            raise ValueError(
                f"there is no {self.noun} {name!r}{hint}; choose one of {', '.join(self)}, or import the module that"
                " adds it"
            )
        return self[name]

    def refuse_factory(self, value: Any) -> None:
        """Raises TypeError if the value is a factory of this table, and not what the factory returns."""
        if value in self.values():
            name = getattr(value, "__name__", "this")
            raise TypeError(f"{name} is a factory of {self.noun}s; pass what it returns, such as {name}()")

    def make(self, name: str, *leading: Any, **options: Any) -> Any:
        """What the factory with this name returns for these options.

        Raises:
          ValueError: if there is no such name, or if the value of an option is invalid.
          TypeError: if the name has no such option.
        """
        factory = self.factory(self.find(name))
        accepted = _signature(factory).parameters
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
            for option in options:
                if option not in accepted:
                    known = ", ".join(list(accepted)[self.leading :]) or "none"
                    raise TypeError(f"the {self.noun} {name} has no option {option!r}; its options are: {known}")
        return factory(*leading, **options)

    def options(self, name: str) -> dict[str, Value]:
        """The options of a name with their defaults: the factory's arguments with a number, truth value or word."""
        parameters = list(_signature(self.factory(self.find(name))).parameters.values())[self.leading :]
        defaults = {each.name: each.default for each in parameters if each.name not in self.reserved}
        return {option: default for option, default in defaults.items() if isinstance(default, Value)}

    def joined(self, name: str) -> Any:
        """The entry that stands for several names, joined by "+"; it has no options of its own."""
        parts = [(part, {}) for part in name.split("+")]
        return lambda **arguments: self.make_joined(parts, **arguments)

    def make_joined(self, parts: Sequence[tuple[str, Mapping[str, Any]]], **arguments: Any) -> Any:
        """What `join` makes of several names, each with its options; the further arguments are for all of them."""
        return self.join(tuple(self.make(name, **dict(options) | arguments) for name, options in parts))

    @staticmethod
    def factory(entry: Any) -> Any:
        """The factory of an entry."""
        return entry
