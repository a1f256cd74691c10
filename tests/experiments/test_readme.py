"""experiments/README.md names every entry point, flags that exist and pictures that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "experiments/README.md").read_text()
SECTIONS = dict(re.findall(r"^## experiments\.(\w+)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))
# Of scripts/reproduce_*.sh.
OTHERS = {"quick"}


def _flags(name: str) -> set[str]:
    """Every flag that the section of this entry point names."""
    return set(re.findall(r"--(\w+)", SECTIONS[name])) - OTHERS


def test_every_entry_point_has_a_section_and_a_command():
    sources = {path.stem: path.read_text() for path in (ROOT / "experiments").glob("*.py")}
    assert set(SECTIONS) == {name for name, text in sources.items() if 'if __name__ == "__main__":' in text}
    for name, text in SECTIONS.items():
        assert f"    python -m experiments.{name}" in text


@pytest.mark.parametrize("name", SECTIONS)
def test_its_flags_exist(name):
    """By what the entry point's source defines: as flags or as settings."""
    text = (ROOT / f"experiments/{name}.py").read_text()
    text += (ROOT / "experiments/settings.py").read_text() if "settings.define_flags()" in text else ""
    for flag in _flags(name):
        assert re.search(rf'DEFINE_\w+\(\s*"{flag}"', text) or re.search(
            rf"^    {flag}: .* = _setting\(", text, re.M
        ), flag


def test_pictures_exist():
    for path in re.findall(r"\]\(([^)]+\.png)\)", PAGE):
        assert (ROOT / "experiments" / path).exists(), path


def test_every_file_is_on_the_map():
    places = PAGE.split("## Where things are")[1]
    files = {path.name for path in (ROOT / "experiments").glob("*.py")} - {"__init__.py"}
    assert files == set(re.findall(r"\b\w+\.py\b", places))


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_its_flags_are_those_of_the_program(name):
    """By the program's own --helpfull."""
    command = [sys.executable, "-m", f"experiments.{name}", "--helpfull"]
    helped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for flag in _flags(name):
        assert re.search(rf"--(\[no\])?{flag}\b", helped), flag
