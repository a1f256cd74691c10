"""scripts/new_project.sh makes a folder that works at once, and changes nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "scripts/template"


def new_project(*arguments):
    command = ["bash", str(ROOT / "scripts/new_project.sh"), *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def run_tests(folder, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/pytest"]
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
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "project").exists()


def test_existing_files_and_folders_are_left_as_they_are(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file", tmp_path / "file/below"):
        done = new_project("my_paper", place)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"
    assert new_project().returncode == 1


def test_the_new_folder_is_the_template_under_another_name(tmp_path):
    folder = tmp_path / "a folder & more"
    assert new_project("my_paper", folder).returncode == 0
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
