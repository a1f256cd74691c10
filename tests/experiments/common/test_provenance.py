"""What is recorded about the code of a run, and what has changed since."""

import subprocess

import pytest

from experiments.common import provenance
from tests.helpers.entry_points import ROOT


def test_nothing_has_changed_since_now():
    assert provenance.changed_code(provenance.describe_code()) == []


def test_other_code_and_other_versions_of_packages_are_named():
    recorded = provenance.describe_code()
    recorded["versions"] = recorded["versions"] | {"jax": "0.1.2"}
    now = provenance.versions()["jax"]
    assert provenance.changed_code(recorded) == [f"jax 0.1.2 to {now}"]
    assert provenance.changed_code(recorded | {"code": "0" * 16}) == ["the project", f"jax 0.1.2 to {now}"]
    recorded |= {"code": "0" * 16, "imports": {"mine": ""}, "versions": {}}
    assert provenance.changed_code(recorded) == ["the project or mine"]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    """Nothing but a data set of TFDS needs tensorflow-datasets."""
    monkeypatch.setattr(provenance, "PACKAGES", ("jax", "no-such-package"))
    assert sorted(provenance.versions()) == ["jax", "python"]


@pytest.mark.parametrize("is_package", [True, False])
def test_a_plus_marks_code_that_the_commit_does_not_have(tmp_path, is_package):
    git = lambda *arguments: subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)
    git("init", "--quiet")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message=empty")
    source = tmp_path / "mine" if is_package else tmp_path / "mine.py"
    code = source / "__init__.py" if is_package else source
    code.parent.mkdir(exist_ok=True)
    code.write_text("a = 1\n")
    (tmp_path / "other.py").write_text("")  # is no part of the source
    assert provenance.git_commit(source).endswith("+")
    git("add", str(code))
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=mine")
    assert len(provenance.git_commit(source)) == 40
    code.write_text("a = 2\n")
    assert provenance.git_commit(source).endswith("+")


def test_the_commit_is_that_of_the_folder_even_inside_a_hook_of_git(tmp_path, monkeypatch):
    """Git exports GIT_DIR to its hooks, and to every command that they start."""
    commit = provenance.git_commit(ROOT)
    if not commit:
        pytest.skip("needs a checkout")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.git_commit(ROOT) == commit
