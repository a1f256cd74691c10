"""The pages of experiments/ name every command, flags that exist and commands that the flags accept."""

import re
from pathlib import Path

import pytest

from experiments.common import options, settings
from tests.helpers import pages

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments"
PAGE = (FOLDER / "README.md").read_text()
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))
# Flags of scripts, of pip and of every command.
OTHERS = {"quick", "help", "helpfull", "import", "compilation_cache"}


def page_of(name: str) -> str:
    """What the pages say about a command: its own page, or its section of the common page."""
    own = FOLDER / name / "README.md"
    if own.exists():
        return own.read_text()
    return PAGE.split(f"## experiments.{name}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_on_the_page_with_an_example(name):
    assert f"[`{name}`]" in PAGE
    assert f"experiments.{name}" in {module for module, _ in pages.commands(page_of(name))}


def test_no_command_is_invented():
    rows = PAGE.split("## What all commands share")[0]
    assert sorted(re.findall(r"\[`(\w+)`\]", rows)) == NAMES


@pytest.mark.parametrize(
    "page", [path for path in pages.PAGES if ROOT / "scripts/template" not in path.parents], ids=str
)
def test_the_flags_of_every_command_on_a_page_are_accepted(page):
    for module, arguments in pages.commands(page.read_text()):
        values = pages.parse(module, arguments)
        if module == "experiments.train":
            assert settings.from_flags(values), arguments


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_that_a_page_names_exist(name):
    known = set(pages.parse(f"experiments.{name}", [])) | pages.known_flags() | OTHERS
    for flag in set(re.findall(r"`--(\w+)", page_of(name))):
        assert flag in known or flag.removeprefix("no") in known, flag


def test_the_options_on_the_page_are_in_the_grammar():
    section = PAGE.split("## What all commands share")[1].split("\n## ")[0]
    tables = {name: field.metadata["table"] for name, field in settings.FIELDS.items() if field.metadata["table"]}
    examples = re.findall(r"--(\w+)=([\w:=.]+:[\w:=.-]+)", section)
    assert len(examples) >= 6
    for name, text in examples:
        if name in tables:
            options.choose(text, tables[name])


def test_the_map_has_every_file_that_commands_share():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.split("## Where things are")[1], re.MULTILINE)
    named = set(re.findall(r"`(\w+(?:\.py|/))`", " ".join(rows)))
    present = {f"{path.name}/" if path.is_dir() else path.name for path in (FOLDER / "common").iterdir()}
    assert named == present - {"__init__.py", "__pycache__/"}
