"""The grammar `name:option=value:option=value`, by which a command line chooses from a table.

A posterior of several blocks, and an estimator for each block, join choices by "+": `categorical:categories=8+normal`.

    choice = grammar.choose("gumbel_rao:inner_samples=100", estimators.BY_NAME)
    str(choice)                                                             # "gumbel_rao:inner_samples=100"
    estimator = grammar.build(choice, estimators.BY_NAME, num_samples=4)

The options of a name are those keyword arguments of its factory that have a number, a truth value or a word as default.
An option that equals its default is left out, so that `renyi` and `renyi:alpha=0.5` are the same choice.
"""

import dataclasses
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.common.optimizers import OPTIMIZERS
from vae import estimators
from vae.diagnostics.expectations import Expectation
from vae.hierarchy import Markov
from vae.table import Table, Value

# Options of every estimator. The help text of --estimator describes them, so they are not listed with each name.
SHARED = ("by_layer", "num_samples")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A name and the options that were given with it.

    Attributes:
      name: A name in a table.
      options: Pairs of an option's name and its value. `parse` leaves the values as text; `check` converts them.
      blocks: The choices that are joined by "+". Their names, joined by "+", are then the name, and it has no options.
    """

    name: str
    options: tuple[tuple[str, Value], ...] = ()
    blocks: tuple["Choice", ...] = ()

    def __str__(self) -> str:
        if self.blocks:
            return "+".join(map(str, self.blocks))
        return ":".join([self.name, *(f"{option}={_text(value)}" for option, value in self.options)])


def values(choice: Choice, table: Table) -> dict[str, Value]:
    """Every option of the choice with its value, given or default."""
    return table.options(choice.name) | dict(choice.options)


def describe(name: str, table: Table) -> str:
    """The name with every option of its own at its default, for help texts."""
    return str(Choice(name, tuple((key, value) for key, value in table.options(name).items() if key not in SHARED)))


def parse(text: str, with_functions: bool = False) -> Choice:
    """The choice that `text` spells, with values as text. Whether the name and the options exist is not checked.

    Args:
      with_functions: Whether the name may be `module:function`.

    Raises:
      ValueError: If an option is given twice or has no value.
    """
    parts = re.split(r"\+(?=[A-Za-z_])", text)  # a number such as 1e+3 is not split
    if len(parts) > 1 and not with_functions:
        blocks = tuple(map(parse, parts))
        return Choice("+".join(block.name for block in blocks), blocks=blocks)
    name, *assignments = text.split(":")
    if with_functions and assignments and assignments[0].isidentifier():
        name = f"{name}:{assignments.pop(0)}"
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
    if choice.blocks:
        if table.join is None:
            raise ValueError(f"{choice} has several names, joined by +; choose one {table.noun}")
        return dataclasses.replace(choice, blocks=tuple(_check(block, table, of_block=True) for block in choice.blocks))
    return _check(choice, table, of_block=False)


def _check(choice: Choice, table: Table, of_block: bool) -> Choice:
    """`check` for one name; the estimator of a block may have a number of samples of its own."""
    defaults = table.options(choice.name)
    if of_block and "num_samples" in table.reserved:
        defaults = {name: default for name, default in defaults.items() if name != "by_layer"} | {"num_samples": 0}
    for option, _ in choice.options:
        if option not in defaults:
            own = [f"{key}={_text(default)}" for key, default in defaults.items() if key not in SHARED]
            none = "it has no options" + " of its own" * ("num_samples" in table.reserved)
            hint = f"its options are {', '.join(own)}" if own else none
            raise ValueError(f"{choice.name} has no option {option!r}; {hint}")
    given = {option: _convert(option, value, type(defaults[option])) for option, value in choice.options}
    if given.get("num_samples", 1) < 1:
        raise ValueError(f"num_samples={given['num_samples']} is below 1")
    return Choice(
        choice.name, tuple((key, given[key]) for key in defaults if given.get(key, defaults[key]) != defaults[key])
    )


def choose(text: str, table: Table) -> Choice:
    """The choice that `text` spells, parsed and checked."""
    return check(parse(text, with_functions=table is OPTIMIZERS), table)


def paper_name(text: str) -> str:
    """An estimator's name as papers write it, with its options: "Gumbel-Softmax, temperature 0.3".

    A name that the table does not have stays as it is.
    """
    choice = parse(text)
    if choice.blocks:
        return " + ".join(paper_name(str(block)) for block in choice.blocks)
    entry = estimators.BY_NAME.get(choice.name)
    name = entry.display if entry and entry.display else choice.name
    return ", ".join([name, *(f"{option.replace('_', ' ')} {value}" for option, value in choice.options)])


def refusal(choice: Choice, expectation: Expectation, black_box: bool = False) -> str | None:
    """Why the estimator cannot differentiate the expectation, and what could; None if it can.

    `black_box` says whether f has no gradient in z.
    """
    q, *others = expectation.q, expectation.reduce, expectation.log_q_weight, black_box, expectation.f
    entry = estimators.BY_NAME.find(choice.name)
    if choice.blocks:
        return entry.refusal(q, *others)
    if values(choice, estimators.BY_NAME)["by_layer"]:
        if isinstance(q, Markov) and expectation.reduce.additive:
            return entry.refusal(q.first, *others)
        return "by_layer=true needs several stochastic layers and a bound that is a mean over samples; leave it out"
    return entry.refusal(q, *others)


def least_samples(name: str) -> int:
    """The least number of samples that the estimator works with."""
    return estimators.BY_NAME.find(parse(name).name).min_samples


def build(choice: Choice, table: Table, **arguments) -> Any:
    """What the factory of the choice returns for its options and these further arguments.

    Raises:
      ValueError: If the factory refuses the options; the sentence begins with the choice.
    """
    try:
        if choice.blocks:
            return table.make_joined([(block.name, dict(block.options)) for block in choice.blocks], **arguments)
        return table.make(choice.name, **dict(choice.options) | arguments)
    except ValueError as error:
        raise ValueError(f"{choice}: {error}") from None


def check_list(elements: Sequence[str], flag: str = "") -> None:
    """Refuses a list, the value of --`flag`, that has an empty element or one that is given twice.

    Raises:
      ValueError: If it has one. The sentence begins with the flag, if it is given.
    """
    where = f"--{flag}={','.join(elements)}: " if flag else ""
    if not all(elements):
        raise ValueError(f"{where}an element is empty; give one value, or several joined by commas without spaces")
    if repeated := [element for element, number in Counter(elements).items() if number > 1]:
        raise ValueError(f"{where}{repeated[0]} is given twice; give it once")


def is_printable(text: str) -> bool:
    """Whether the text is free of control characters, which could steer a terminal. Spaces of all kinds are allowed."""
    return not any(unicodedata.category(character)[0] == "C" for character in text)


def check_range(number: int | float, text: str) -> None:
    """Refuses a number that is not finite or does not fit into 32 bits: float32 would take it for zero or infinity.

    Raises:
      ValueError: The sentence begins with `text`, the number as it was written.
    """
    if isinstance(number, int):
        if abs(number) >= 2**31:
            raise ValueError(f"{text} does not fit into 32 bits")
        return
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    if number and not 1.2e-38 < abs(number) < 3.4e38:
        raise ValueError(f"{text} does not fit into 32 bits; its size must lie between 1.2e-38 and 3.4e38")


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
    check_range(number, f"{option}={text}")
    return number
