"""One process trains a run, and processes take turns at a workdir's tables."""

import errno
import fcntl
import threading

import pytest

from experiments.common import locks


def test_a_claimed_folder_can_be_claimed_again_when_the_first_claim_ends(tmp_path):
    first = locks.claim(tmp_path)
    with pytest.raises(ValueError, match="is in use by process"):
        locks.claim(tmp_path)
    first.close()
    locks.claim(tmp_path).close()


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch, capsys):
    def flock(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    locks.claim(tmp_path).close()
    assert capsys.readouterr().err == f"{tmp_path} is on a file system without locks: start no second run in it\n"


def test_processes_take_turns(tmp_path):
    order = []

    def second():
        with locks.taking_turns(tmp_path):
            order.append("second")

    with locks.taking_turns(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
