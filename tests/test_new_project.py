"""scripts/new_project.sh: a folder that works at once, and no other that is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def new_project(*arguments):
    command = ["bash", str(ROOT / "scripts/new_project.sh"), *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "no Python name"),
        ("My-Paper", "no Python name"),
        ("../up", "no Python name"),
        ("1st", "no Python name"),
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
def test_bad_names_are_refused_in_one_sentence(name, word, tmp_path):
    done = new_project(name, tmp_path / "project")
    assert done.returncode == 1
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "project").exists()


def test_what_is_there_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    for there in (tmp_path, tmp_path / "file", tmp_path / "file/below"):
        done = new_project("my_estimator", there)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"
    assert new_project().returncode == 1


def test_the_new_files_are_sound(tmp_path):
    assert new_project("my_estimator", tmp_path / "a folder").returncode == 0
    files = {str(path.relative_to(tmp_path / "a folder")): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) == {
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "my_estimator/__init__.py",
        "my_estimator/estimator.py",
        "my_estimator/evaluate.py",
        "my_estimator/experiment.py",
        "my_estimator/report.py",
        "my_estimator/train.py",
        "scripts/reproduce.sh",
        "tests/test_estimator.py",
        "tests/test_experiment.py",
        "tests/test_reproduce.py",
    }
    for name, path in files.items():
        assert "@NAME@" not in path.read_text()
        assert "@CODE@" not in path.read_text()
        if path.suffix == ".py":
            compile(path.read_text(), name, "exec")
        if path.suffix == ".sh":
            assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.slow
def test_the_new_project_works(tmp_path):
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = tmp_path / "a folder"
    done = new_project("my_estimator", folder)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/pytest"]
    tested = subprocess.run(
        tests, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert tested.returncode == 0, tested.stdout
    assert "7 passed" in tested.stdout

    def python(*command):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment | {"PYTHONPATH": f".:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = ["-m", "my_estimator.experiment", "--problem=linear_gaussian", "--draws=200", "--rounds=3"]
    python(*command, "--estimators=my_estimator,reinforce", "--output=results")
    assert "my_estimator" in (folder / "results/results.csv").read_text()
    assert json.loads((folder / "results/config.json").read_text())["command"].startswith(f"python {' '.join(command)}")

    small = ["--epochs=1", "--hidden=8", "--eval_samples=2", "--nofigures"]
    said = python("-m", "my_estimator.train", "--estimator=my_estimator", "--objective=elbo", *small, "--workdir=run")
    python(*said.rstrip().split(": python ")[-1].split())
    page = (folder / "run/report.html").read_text()
    assert "<span>-m</span> <span>my_estimator.train</span>" in page
    assert "<code>my_estimator.evaluate --figures</code>" in page
    assert "-log p(x)" in python("-m", "my_estimator.evaluate", "--workdir=run", "--eval_samples=2")
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert after.stdout == before.stdout
