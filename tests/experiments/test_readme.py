"""The pages of experiments/ name every command, setting, problem and file, and the flags accept their commands."""

import re

import pytest

from experiments.common import candidates, foreign_files, grammar, problems, setting_flags, settings
from experiments.common.task import Task
from tests.helpers import pages
from vae import objectives as bounds

FOLDER = pages.ROOT / "experiments"
PAGE = (FOLDER / "README.md").read_text()
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))
OWN_PAGES = [path for path in pages.PAGES if FOLDER in path.parents]
# Flags of scripts, and flags that every command has.
OTHERS = {"quick", "help", "helpfull", "import", "compilation_cache"}


def page_of(name: str) -> str:
    return (FOLDER / name / "README.md").read_text()


def section(page: str, heading: str) -> str:
    """The text between a heading of the second level and the next one."""
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


# --- Commands and flags


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_page_with_an_example(name):
    assert page_of(name).startswith(f"# experiments.{name}\n")
    assert f"experiments.{name}" in {module for module, _ in pages.commands(page_of(name))}


def test_the_first_page_has_a_link_and_an_example_for_every_command():
    top = PAGE.split("\n## ")[0]
    assert sorted(re.findall(r"\[`(\w+)`\]\(\1/README.md\)", top)) == NAMES
    assert sorted(module.removeprefix("experiments.") for module, _ in pages.commands(top)) == NAMES


@pytest.mark.parametrize("page", [path for path in pages.PAGES if "template" not in path.parts], ids=str)
def test_the_flags_accept_every_command_on_a_page(page):
    for module, arguments in pages.commands(page.read_text()):
        values = pages.parse(module, arguments)
        if module == "experiments.train":
            assert setting_flags.from_flags(values, with_budget=values["budget"].present), arguments


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_that_a_page_names_exist(name):
    example = pages.commands(page_of(name), f"experiments.{name}")[0]
    known = set(pages.parse(*example)) | pages.known_flags() | OTHERS
    text = re.sub(r"python -m experiments\.\w+[^`\n]*", "", page_of(name))  # commands are parsed by another test
    named = re.findall(r"(?<!=)--(\w+)", text)
    assert not [flag for flag in named if flag not in known and flag.removeprefix("no") not in known]


def test_the_options_on_the_first_page_are_in_the_grammar():
    tables = {
        name: field.metadata["table"] for name, field in settings.FIELDS.items() if field.metadata["table"] is not None
    }
    tables["problem"] = problems.BY_NAME
    examples = re.findall(r"--(\w+)=([\w:=.-]+:[\w:=.-]+)", section(PAGE, "What all commands share"))
    assert len(examples) >= 7
    for name, text in examples:
        grammar.choose(text, tables[name])


# --- Tables


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without the backticks around them."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_the_tables_of_train_have_every_setting_with_its_default():
    listed = {name: default for name, default, _ in rows(section(page_of("train"), "Settings")) if name != "setting"}
    defaults = settings.Settings().json()
    assert listed == {name: settings.text(value) for name, value in defaults.items()}


def test_the_tables_of_train_have_every_objective_with_its_options():
    listed = {row[0]: re.findall(r"\w+", row[1]) for row in rows(section(page_of("train"), "Bounds"))}
    del listed["--objective"]
    table = bounds.BY_NAME
    assert {name: set(names) for name, names in listed.items()} == {name: set(table.options(name)) for name in table}


def test_the_page_of_train_names_what_shares_a_program():
    text = section(page_of("train"), "Sweeps and programs")
    numbers = [*settings.ARRAYS, *(name for names in settings.ARRAY_OPTIONS.values() for name in names)]
    assert all(name in text for name in numbers)


def test_the_table_of_slurm_has_every_flag():
    flags = {name for name in pages.parse("experiments.train", []) if name.startswith("slurm_")}
    assert {row[0].removeprefix("--") for row in rows(section(page_of("train"), "SLURM"))} - {"flag"} == flags


def test_the_table_of_problems_has_every_problem_with_its_options_and_objectives():
    listed = {row[0]: row[1:3] for row in rows(section(page_of("compare_estimators"), "Problems"))}
    del listed["--problem"]
    assert set(listed) == set(problems.BY_NAME)
    for name, (names, objectives) in listed.items():
        assert re.findall(r"\w+", names) == list(problems.BY_NAME.options(name))
        assert re.findall(r"\w+", objectives) == list(problems.make(name).bounds)


def test_the_page_of_the_benchmark_names_every_section():
    from experiments.benchmark.__main__ import SECTIONS

    assert set(SECTIONS) == {row[0] for row in rows(section(page_of("benchmark"), "Sections"))} - {"section"}


@pytest.mark.parametrize("page", OWN_PAGES, ids=str)
def test_lines_and_cells_are_short(page):
    assert max(map(len, page.read_text().splitlines())) <= 120
    assert max((len(cell) for row in rows(page.read_text()) for cell in row), default=0) <= 90


# --- Files


def test_the_first_page_has_every_file_of_a_workdir():
    pages = map(page_of, ("train", "compare_estimators", "toy_bernoulli"))
    text = "".join([section(PAGE, "What a workdir holds"), *pages])
    visible = [name for name in foreign_files.NAMES if not name.startswith(".") and name != "store"]
    assert not [name for name in visible if name not in text]


def test_the_map_has_every_folder():
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(re.findall(r"^    (\w+)/ ", section(PAGE, "Where things are"), re.MULTILINE))


def test_the_page_of_common_has_every_file():
    listed = [row[0] for row in rows(page_of("common")) if row[0] != "file"]
    present = {f"{path.name}/" if path.is_dir() else path.name for path in (FOLDER / "common").iterdir()}
    assert sorted(listed) == sorted(present - {"__init__.py", "__pycache__/", "README.md"})


# --- The function of your own


def test_the_problem_of_your_own_is_one_that_the_laboratory_measures():
    block, _ = pages.blocks(page_of("compare_estimators"))  # the other one has a test of its own
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    fitting = candidates.choose(Task(namespace["problem"](), "elbo"))
    assert {"reparam", "stl", "reinforce", "measure_valued"} <= set(fitting)
