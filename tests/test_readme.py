"""README.md is short, its commands run, and its code is that of the library. No page has a broken link.

The last tests check CITATION.cff and pyproject.toml, which describe the project to other programs.
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from experiments.common import setting_flags
from tests.helpers import entry_points, pages
from vae import estimators

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MNIST = ROOT.parent / "shared/data"
COMMANDS = [*pages.commands(README), *((name, []) for name in re.findall(r"`python -m (experiments\.\w+)`", README))]
# Flags that make each command short.
SHORT = {
    "experiments.train": ["--epochs=1", "--eval_samples=2", "--hidden=8", "--figures=none"],
    "experiments.evaluate": ["--eval_samples=3"],
    "experiments.report": [],
    "experiments.compare_estimators": [
        "--draws=20",
        "--rounds=3",
        "--batch_size=4",
        "--cv_steps=2",
        "--replicates=100",
    ],
    "experiments.gradient_flow": [],
}


def test_the_readme_has_at_most_150_lines_of_at_most_120_characters():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_section_five_commands_has_five_commands():
    section = README.split("## Five commands")[1].split("\n## ")[0]
    names = {module.split(".")[1] for module, _ in pages.commands(section)}
    assert names == {"train", "evaluate", "report", "compare_estimators"}
    assert len(pages.commands(section)) == 5


def test_the_settings_of_every_training_command_go_together():
    cases = [arguments for module, arguments in pages.commands(README) if module == "experiments.train"]
    assert len(cases) >= 4
    for case in cases:
        assert setting_flags.from_flags(pages.parse("experiments.train", case))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with a short run in place of the quickstart's, and with a short sweep."""
    folder = tmp_path_factory.mktemp("results")
    calls = [
        entry_points.training("--epochs=1", f"--workdir={folder}/quickstart"),
        entry_points.training("--epochs=1", f"--workdir={folder}/sweep", "--seed=0,1"),
    ]
    assert [outcome.code for outcome in entry_points.run_all(calls, folder / "outcomes")] == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_runs(module, arguments, results, tmp_path):
    words = [word.replace("results/", f"{results}/") for word in arguments]
    if "--data_dir=DIR" in words:
        if not MNIST.exists():
            pytest.skip("needs TFDS's mnist beside the checkout")
        words += [f"--data_dir={MNIST}", f"--cache_dir={tmp_path}"]
    output = {"experiments.train": "workdir", "experiments.evaluate": None, "experiments.report": None}
    if flag := output.get(module, "output"):
        words.append(f"--{flag}={tmp_path}/written")

    [outcome] = entry_points.run(module, [[*words, *SHORT[module]]], tmp_path / "outcomes")

    assert outcome.code == 0, outcome.err


def test_the_scripts_that_the_readme_names_exist():
    names = re.findall(r"\b(\w+\.sh)\b", README)
    assert {"quickstart.sh", "test.sh", "new_project.sh"} < set(names)
    for name in names:
        assert (ROOT / "scripts" / name).exists(), name


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in pages.links(page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in pages.anchors(path.read_text()), target


def test_the_estimator_in_ten_lines_is_the_code_of_the_library():
    [block] = [block for block in pages.blocks(README) if "def leave_one_out" in block]
    bare = lambda code: [re.sub(r"  #.*", "", line) for line in code.splitlines() if line.strip()]
    source = (ROOT / "vae/estimators/leave_one_out.py").read_text()
    source = re.sub(r'""".*?"""\n', "", source, flags=re.DOTALL)
    code = [line for line in bare(source) if not line.startswith("from")]
    assert bare(block) == code
    assert len(code) <= 10


def test_the_advised_estimators_exist_and_have_the_stated_properties():
    section = README.split("## Which estimator")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    for _, _, black_box in rows:
        for name in re.findall(r"`(\w+)(?::\w+=\w+)?`", black_box):
            assert not estimators.BY_NAME[name].differentiates_f, name
    for name in re.findall(r"`(\w+)`(?= \(biased\))", section):
        assert estimators.BY_NAME[name].biased, name
    for _, differentiable, _ in rows:
        assert set(re.findall(r"`(\w+)`", differentiable)) <= set(estimators.BY_NAME)


def test_the_citation_is_complete():
    """CITATION.cff has the fields that its schema 1.2.0 requires, no placeholders, and the package's version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[name] for name in ("message", "title"))
    assert citation["type"] == "software"
    assert all(set(author) == {"name"} for author in citation["authors"])
    assert citation["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert not re.search("example|TODO|placeholder", str(citation))


def test_pyproject_and_requirements_list_the_same_packages():
    """requirements.txt lists the packages of the library, of its experiments and of its tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if not line.startswith("#")]
    assert sorted([*project["dependencies"], *extras["experiments"], *extras["test"]]) == sorted(required)


def test_the_library_imports_no_package_of_the_experiments_or_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = [path.read_text() for path in (ROOT / "vae").rglob("*.py")]
    imported = {name for text in sources for name in re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE)}
    others = {
        re.split("[<>=]", each)[0]
        for extra in ("experiments", "test")
        for each in project["optional-dependencies"][extra]
    }
    modules = {"absl-py": "absl", "pytest-xdist": "xdist", "pyyaml": "yaml"}
    assert not imported & {modules.get(name, name) for name in others}


def test_pyproject_lists_every_folder_of_the_library():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "vae").rglob("__init__.py")}
    assert project["tool"]["setuptools"]["packages"] == sorted(str(folder).replace("/", ".") for folder in folders)
