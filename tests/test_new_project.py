"""scripts/new_project.sh makes a folder that works at once, and changes nothing else."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vae.estimators import ENTRIES, Entry

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "scripts/template"


def new_project(*arguments):
    command = ["bash", str(ROOT / "scripts/new_project.sh"), *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def make_fork(folder, source, entry: Entry, **choices):
    """A new project `my_paper` whose estimator has this source, these facts, and these experiments."""
    assert new_project("my_paper", folder).returncode == 0
    (folder / "my_paper/estimator.py").write_text(source)
    facts = {field.name: getattr(entry, field.name) for field in dataclasses.fields(Entry) if field.kw_only}
    facts = ", ".join(f"{name}={value!r}" for name, value in facts.items() if name != "name")
    replace(folder / "my_paper/__init__.py", r"estimators\.Entry\(.*?^    \)", f"estimators.Entry(my_paper, {facts})")
    for name, value in choices.items():
        replace(folder / "scripts/reproduce.sh", rf"^{name}=.*?$", f"{name}={value}")


def replace(path, pattern, text):
    changed, count = re.subn(pattern, lambda match: text, path.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    path.write_text(changed)


def run_tests(folder, tmp_path, *tests):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/pytest", *tests]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "not a Python name"),
        ("My-Paper", "not a Python name"),
        ("../up", "not a Python name"),
        ("1st", "not a Python name"),
        ("lambda", "a word of Python"),
        ("max", "a word of Python"),
        ("random", "a word of Python"),
        ("results", "a word of Python"),
        ("estimators", "a word of Python"),
        ("stateless", "a word of Python"),
        ("test_estimator", "a word of Python"),
        ("vae", "a word of Python"),
        ("array_record", "a word of Python"),
        ("scipy", "a word of Python"),
        ("relax", "an estimator called relax already"),
    ],
)
def test_a_bad_name_is_refused_in_one_sentence(name, sentence, tmp_path):
    done = new_project(name, tmp_path / "project")
    assert done.returncode == 1, done.stdout
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "project").exists()


def test_existing_files_and_folders_are_left_as_they_are(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file", tmp_path / "file/below"):
        done = new_project("my_paper", place)
        assert done.returncode == 1, done.stdout
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"
    assert new_project().returncode == 1


def test_the_new_folder_is_the_template_under_another_name(tmp_path):
    folder = tmp_path / "a folder & more"
    done = new_project("my_paper", folder)
    assert done.returncode == 0
    assert "the commit of my_paper if the folder is a repository: git init && git add . && git commit" in done.stdout
    listed = subprocess.run(["git", "ls-files"], cwd=TEMPLATE, capture_output=True, text=True, check=True)
    names = {name.replace("my_estimator", "my_paper") for name in listed.stdout.splitlines()}
    assert names == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "my_paper/estimator.py" in names
    checkout = os.path.relpath(ROOT, folder)
    for name in names:
        text = (folder / name).read_text()
        assert "my_estimator" not in text
        assert "../.." not in text.replace(checkout, "")
    assert f'pythonpath = [".", "{checkout}"]' in (folder / "pyproject.toml").read_text()
    assert f'default="{checkout}"' in (folder / "scripts/reproduce.sh").read_text()


def test_ruff_has_nothing_to_say_about_the_new_folder(tmp_path):
    assert new_project("zz_paper", tmp_path / "zz_paper").returncode == 0
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=tmp_path / "zz_paper", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def written_results(folder, group):
    """Results of two trained and measured estimators; the variances belong to this group of parameters."""
    for name, column, values in (
        ("digits", "test_elbo_nats", (-24.1, -26)),
        ("gradients", f"{group}_variance", (1, 12)),
    ):
        (folder / name).mkdir(parents=True)
        lines = (f"{estimator},{value}" for estimator, value in zip(("my_estimator", "reinforce"), values, strict=True))
        (folder / name / "results.csv").write_text("\n".join([f"estimator,{column}", *lines]))
    return folder


def test_the_numbers_of_reproduce_are_compared_with_the_expected_ones(tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("expected", TEMPLATE / "scripts/expected.py")
    expected = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expected)
    monkeypatch.delitem(expected.EXPECTED, ("encoder variance ratio", "reparam"))
    assert expected.main(written_results(tmp_path / "same", "encoder")) == 0
    assert "differs" not in capsys.readouterr().out
    # a problem with another group of parameters
    assert expected.main(written_results(tmp_path / "other", "phi")) == 1
    lines = {tuple(line.split()[:4]): line for line in capsys.readouterr().out.splitlines()}
    assert lines["phi", "variance", "ratio", "my_estimator"].endswith(" 0.08333")
    assert lines["encoder", "variance", "ratio", "my_estimator"].endswith(
        "not measured  expected 0.083 +- 0.01  <- differs"
    )


def test_placeholders_are_deleted_and_renamed_by_the_steps_of_the_readme(tmp_path):
    """The estimator has another name, the posterior and the objective are gone, and all tests are still found."""
    folder = tmp_path / "fork"
    assert new_project("my_paper", folder).returncode == 0
    replace(folder / "my_paper/estimator.py", r"def my_paper\(", "def taylor(")
    table = folder / "my_paper/__init__.py"
    replace(table, "^from my_paper.estimator import .*?$", "from my_paper.estimator import taylor")
    replace(table, r'"my_paper": estimators.Entry\(\s*my_paper', '"taylor": estimators.Entry(taylor')
    for kind, names in (("posterior", "POSTERIORS"), ("objective", "OBJECTIVES")):
        (folder / f"my_paper/{kind}.py").unlink()
        (folder / f"tests/test_{kind}.py").unlink()
        replace(table, f"^from my_paper.{kind} import [^\n]*\n", "")
        replace(table, rf"^{names} = \{{.*?\}}$", f"{names} = {{}}")
    fast = ("-k", "the_script_names or the_entry_claims or takes_each")
    forgotten = run_tests(folder, tmp_path, *fast)
    assert "AssertionError: estimators=my_paper at the top of scripts/reproduce.sh" in forgotten.stdout
    replace(folder / "scripts/reproduce.sh", "^estimators=.*?$", "estimators=taylor")
    done = run_tests(folder, tmp_path, *fast)
    assert done.returncode == 0, done.stdout
    assert re.search("^2 passed, 1 skipped", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_the_tests_of_the_template_pass(tmp_path):
    done = run_tests(TEMPLATE, tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_tests_of_a_new_project_pass_and_leave_the_checkout_unchanged(tmp_path):
    status = lambda: subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout
    before = status()
    folder = tmp_path / "a folder"
    assert new_project("my_paper", folder).returncode == 0
    done = run_tests(folder, tmp_path)
    assert done.returncode == 0, done.stdout
    assert status() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("leave_one_out", {}),  # a score function that needs two samples
        ("unordered_set", {"posterior": "categorical", "problem": "three_bits", "rivals": "reinforce"}),  # classes only
        ("nvil", {"posterior": "bernoulli"}),  # learned parameters
    ],
)
def test_the_tests_of_a_project_pass_after_a_real_estimator_took_the_place_of_the_placeholder(name, choices, tmp_path):
    source = (ROOT / f"vae/estimators/{name}.py").read_text().replace(name, "my_paper")
    make_fork(tmp_path / "fork", source, ENTRIES[name], **choices)
    done = run_tests(tmp_path / "fork", tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_tests_of_a_project_fail_for_a_wrong_estimator(tmp_path):
    source = "from vae.testing.slips import leave_one_out_shrunk as my_paper\n"
    make_fork(tmp_path / "fork", source, ENTRIES["arms"])
    done = run_tests(tmp_path / "fork", tmp_path, "tests/test_estimator.py")
    assert done.returncode == 1, done.stdout
    assert "NOT CERTIFIED: biased" in done.stdout
    assert re.search(r"^1 failed, 2 passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_the_tests_of_a_project_test_every_estimator_in_its_table(tmp_path):
    """A wrong estimator beside the placeholder. Both are trained and measured, and the wrong one alone is found."""
    assert new_project("my_paper", tmp_path / "fork").returncode == 0
    table = tmp_path / "fork/my_paper/__init__.py"
    text = table.read_text().replace(
        "from my_paper.objective", "from vae.testing import slips\nfrom my_paper.objective"
    )
    entry = 'ESTIMATORS["wrong"] = estimators.Entry(slips.leave_one_out_shrunk, latents=("Normal",), min_samples=2)'
    table.write_text(text.replace("for name, entry in ESTIMATORS", f"{entry}\nfor name, entry in ESTIMATORS"))
    replace(tmp_path / "fork/scripts/reproduce.sh", "^estimators=.*?$", "estimators=my_paper,wrong")
    done = run_tests(tmp_path / "fork", tmp_path, "tests/test_estimator.py", "tests/test_commands.py")
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    assert len(failed) == 1, done.stdout
    assert failed[0].endswith("[wrong-Normal-mean]")
