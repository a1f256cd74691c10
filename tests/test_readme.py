"""README.md is true: its commands run, its table is the code's, its worked estimator is one."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from absl import flags

from experiments.common import settings
from tests.helpers import entry_points, problems
from vae import estimators
from vae.estimators import mean
from vae.estimators.__main__ import table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MNIST = ROOT.parent / "shared/data"


def _commands(module: str) -> list[list[str]]:
    lines = [line.split("#")[0].strip() for line in README.splitlines()]
    return [line.split()[3:] for line in lines if re.match(rf"python -m {module}\b", line)]


def test_the_commands_settings_are_sound():
    """Every training command of the page: known flags, and settings that go together."""
    for case in _commands("experiments.train"):
        values = flags.FlagValues()
        settings.define_flags(values)
        values(["train", *(word for word in case if not word.startswith(("--workdir", "--data_dir")))])
        for run in settings.from_flags(values):
            assert run.estimator in estimators.BY_NAME


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["continuous", "discrete", "mnist"])
def test_the_commands_run(kind, tmp_path):
    """Each with the flags of the page and, behind them, those that make it short."""
    cases = [case for case in _commands("experiments.train") if _kind(case) == kind]
    assert len(cases) >= {"continuous": 5, "discrete": 3, "mnist": 1}[kind]
    if kind == "mnist" and not MNIST.exists():
        pytest.skip("needs TFDS's mnist beside the checkout")
    short = ["--epochs=1", "--eval_samples=2", "--nofigures", "--hidden=8"]
    cases = [[*case, *short, f"--workdir={tmp_path}/{i}"] for i, case in enumerate(cases)]
    cases = [[word.replace("--data_dir=DIR", f"--data_dir={MNIST}") for word in case] for case in cases]
    cases = [[*case, f"--cache_dir={tmp_path}/cache"] for case in cases]
    outcomes = entry_points.run("experiments.train", cases, tmp_path / "outcomes")
    assert [o.code for o in outcomes] == [0] * len(cases), [o.err for o in outcomes if o.code]
    if kind == "continuous":
        again = [[*case, f"--workdir={tmp_path}/0", "--eval_samples=3"] for case in _commands("experiments.evaluate")]
        assert again
        outcomes = entry_points.run("experiments.evaluate", again, tmp_path / "evaluated")
        assert [o.code for o in outcomes] == [0] * len(again), [o.err for o in outcomes]


def _kind(case: list[str]) -> str:
    if "--dataset=mnist" in case:
        return "mnist"
    return "discrete" if any(word.startswith("--posterior=") for word in case) else "continuous"


def test_the_table_is_that_of_the_code():
    assert table() in README


def test_files_and_scripts_that_it_names_exist():
    for path in re.findall(r"(?:scripts|experiments|tests|vae)/[\w/]+\.(?:sh|py|png)", README):
        assert (ROOT / path).exists() or path == "vae/estimators/reinforce_at_mean.py", path


def test_the_worked_estimator_is_short_and_unbiased():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    [source] = [block for block in blocks if "def reinforce_at_mean" in block]
    assert source.count("\n") < 60
    namespace = {}
    exec(compile(source, "README.md", "exec"), namespace)
    estimator = namespace["reinforce_at_mean"](num_samples=2)
    for family in ("Normal", "Bernoulli"):
        exact = problems.oracle(family, "elbo", 2)
        problems.assert_unbiased(estimator, problems.problem(family), mean, exact)


def test_the_citation_is_one():
    """What the schema of CITATION.cff 1.2.0 requires, names without placeholders, and the package's own version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[name] for name in ("message", "title"))
    assert citation["type"] == "software"
    assert all(set(author) == {"name"} for author in citation["authors"])
    assert citation["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert not re.search("example|TODO|placeholder", str(citation))


def test_the_package_and_the_requirements_agree():
    """requirements.txt is what the library needs, and what its experiments and tests need besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if not line.startswith("#")]
    assert sorted([*project["dependencies"], *extras["experiments"], *extras["test"]]) == sorted(required)


def test_the_library_imports_what_it_depends_on():
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
