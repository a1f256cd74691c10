"""The flags of the settings of a run. Each flag takes a comma-separated list, and several lists give their product.

`--seed=0,1 --latent_dim=8,16` is four runs. An estimator may have a number of samples of its own, which takes the place
of --num_samples: `--estimator=disarm:num_samples=2,leave_one_out:num_samples=8`.
"""

import dataclasses
import itertools
from typing import Any

from absl import flags

from experiments.common import grammar, optimizers
from experiments.common.settings import FIELDS, Settings, check, parse, text


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each setting. Each flag takes a comma-separated list."""
    for name, field in FIELDS.items():
        flags.DEFINE(_ListParser(field), name, (field.default,), field.metadata["help"], flag_values, _Serializer())
        flag_values[name].boolean = field.type is bool  # --name and --noname, and still --name=true,false


def from_flags(values: flags.FlagValues, with_budget: bool = False) -> list[Settings]:
    """The product of all lists on the command line, in order, without duplicates.

    Args:
      with_budget: Whether a budget will choose the numbers of samples. The runs then have the least numbers of samples
        with which their estimators work.

    Raises:
      ValueError: If the settings of a run contradict each other.
    """
    own_samples = any(_without_samples(estimator)[1] for estimator in values["estimator"].value)
    if with_budget and (own_samples or values["num_samples"].present):
        raise ValueError("--budget chooses the number of samples; leave out --num_samples")
    product = itertools.product(*(values[name].value for name in FIELDS))
    runs = [_make_run(dict(zip(FIELDS, point, strict=True))) for point in product]
    if with_budget:
        runs = [dataclasses.replace(run, num_samples=grammar.least_samples(run.estimator)) for run in runs]
    for run in runs:
        check(run)
    return list(dict.fromkeys(runs))


def _make_run(values: dict[str, Any]) -> Settings:
    """The run of these values. The number of samples that stands among the estimator's options takes precedence."""
    estimator, own_samples = _without_samples(values["estimator"])
    if own_samples:
        values |= {"estimator": estimator, "num_samples": parse("num_samples", own_samples)}
    return Settings(**values)


def with_estimator(run: Settings, text: str) -> Settings:
    """The run with another estimator, which may have a number of samples of its own."""
    return _make_run({name: getattr(run, name) for name in FIELDS} | {"estimator": text})


def define_list(name: str, setting: str, help: str, flag_values: flags.FlagValues, module: str) -> None:
    """Defines a flag that takes a comma-separated list of values of a setting. The default is none.

    Args:
      module: The module that defines the flag; --help lists the flags by module.
    """
    flags.DEFINE(_ListParser(FIELDS[setting]), name, (), help, flag_values, _Serializer(), module_name=module)


def _without_samples(estimator: str) -> tuple[str, str]:
    """The estimator without the option num_samples, and the text of this option; an empty text if it is not given."""
    choice = grammar.parse(estimator)
    if choice.blocks:  # a block keeps its number
        return estimator, ""
    others = tuple((name, value) for name, value in choice.options if name != "num_samples")
    return str(grammar.Choice(choice.name, others)), dict(choice.options).get("num_samples", "")


class _ListParser(flags.ArgumentParser):
    """`a,b,c` to a tuple of the field's type, each element checked."""

    def __init__(self, field: dataclasses.Field):
        self.field = field

    @property
    def syntactic_help(self):
        table, choices = self.field.metadata["table"], self.field.metadata["choices"]
        if table is not None:
            others = ["npz:PATH", "a set of TFDS"] if self.field.name == "dataset" else []
            return f"any of {', '.join([*(grammar.describe(name, table) for name in table), *others])}"
        return f"any of {', '.join(choices)}" if choices else ""

    def parse(self, argument):
        if isinstance(argument, tuple):  # the default
            return argument
        elements = [element.strip() for element in str(argument).split(",")]
        grammar.check_list(elements)
        values = tuple(map(self._parse_element, elements))
        grammar.check_list([text(value) for value in values])
        return values

    def _parse_element(self, element: str) -> Any:
        if self.field.name == "optimizer":
            optimizers.load(grammar.parse(element, with_functions=True).name)
        if self.field.name != "estimator":
            return parse(self.field.name, element)
        estimator, own_samples = _without_samples(element)
        if not own_samples:
            return parse("estimator", estimator)
        parse("num_samples", own_samples)  # refuses what is not a number
        return f"{parse('estimator', estimator)}:num_samples={own_samples}"

    def flag_type(self):
        return f"list of {'dashed int' if self.field.type == tuple[int, ...] else self.field.type.__name__}"


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(text, value))
