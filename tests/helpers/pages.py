"""What the tests of the documents read from Markdown."""

import importlib
import re
import shlex
from pathlib import Path

from absl import flags

from experiments.common import setting_flags
from experiments.train import flags as train_flags

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in ROOT.rglob("README.md") if not {".venv", "results"} & set(path.parts))


def blocks(text: str) -> list[str]:
    """The blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str, module: str = r"experiments\.\w+") -> list[tuple[str, list[str]]]:
    """Every line that starts `python -m module`, as (module, arguments). A line may be continued by a backslash."""
    joined = re.sub(r" *\\\n *", " ", text)
    lines = re.findall(rf"^ *(?:[A-Z_]+=\S+ )*python -m ({module})\b(.*)$", joined, re.MULTILINE)
    return [(name, shlex.split(arguments, comments=True)) for name, arguments in lines]


def parse(module: str, arguments: list[str]) -> flags.FlagValues:
    """The flags of the command, as its `main` receives them.

    Raises:
      absl.flags.Error: if there is no such flag or a value is wrong.
    """
    values = flags.FlagValues()
    importlib.import_module(f"{module}.__main__").define_flags(values)
    rest = values([module, *(word for word in arguments if not word.startswith("--import="))])
    assert rest == [module], f"{rest[1:]} are no flags"
    return values


def known_flags() -> set[str]:
    """Every flag of training."""
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    train_flags.define_flags(values)
    return set(values)


def links(text: str) -> list[str]:
    """The targets of links and pictures within the repository."""
    text = re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lines_to_read(paths: list[str]) -> int:
    """The number of lines of these files that are not blank."""
    return sum(bool(line.strip()) for path in paths for line in (ROOT / path).read_text().splitlines())
