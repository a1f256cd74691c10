"""Files are the old or the new, and rows are whole lines."""

import re
from pathlib import Path

import pytest

import experiments
from experiments.common import files

SOURCES = sorted(Path(experiments.__file__).parent.rglob("*.py"))


@pytest.fixture
def fail():
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    return fail


@pytest.mark.parametrize(("owner", "name"), [(Path, "write_bytes"), (files.os, "replace")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(owner, name, fail, tmp_path, monkeypatch):
    files.write_json(tmp_path / "result.json", {"old": 1})
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="No space"):
        files.write_json(tmp_path / "result.json", {"new": 1})
    monkeypatch.undo()
    assert files.read_json(tmp_path / "result.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_no_command_writes_a_file_that_readers_see_half_written():
    writes = re.compile(
        r"""os\.replace\(|(?<!\bfiles)\.write_(?:text|bytes)\(|\bopen\((?!os\.devnull)[^\n]*["'][wax]b?\+?["']"""
    )
    writers = {path.name for path in SOURCES if writes.search(path.read_text(encoding="utf-8"))}
    # Beside files.py: locks, and the rows of a process that its parent reads when the process has ended.
    assert writers == {"files.py", "locks.py", "guard.py"}


@pytest.mark.parametrize(
    ("content", "lines", "whole"),
    [
        (b"", [], True),
        (b'{"a": 1}\n{"a": 2}\n', [b'{"a": 1}', b'{"a": 2}'], True),
        (b'{"a": 1}\n{"a": 2}', [b'{"a": 1}', b'{"a": 2}'], False),  # only the line end is missing
        (b'{"a": 1}\n{"a": ', [b'{"a": 1}'], False),
        (b'{"a": ', [], False),
    ],
)
def test_a_half_written_last_line_is_not_read(content, lines, whole, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    assert files.read_lines(path) == lines
    assert files.ends_with_a_whole_line(path) == whole


def test_a_file_of_rows_that_is_absent_has_no_lines(tmp_path):
    assert files.read_lines(tmp_path / "metrics.jsonl") == []
    assert files.ends_with_a_whole_line(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(("content", "sentence"), [("{", "not valid JSON"), ("[]", "holds no named values")])
def test_json_that_is_damaged_is_refused(content, sentence, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        files.read_json(tmp_path / "config.json")


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    files.check_space(tmp_path, 0)
    with pytest.raises(ValueError, match="make room or choose another folder"):
        files.check_space(tmp_path, 2**62)
