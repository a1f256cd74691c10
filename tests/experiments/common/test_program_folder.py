"""The files of a program: what is written is read again, and what does not belong there is refused."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.common import program_folder
from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import Settings
from tests.helpers.written_workdirs import Written, change_result, write_program, write_rows, write_run, write_sweep
from vae import checkpoint
from vae.data import Dataset

IMAGES = np.zeros((2, 2, 2, 1), np.uint8)
DATA = Dataset("digits", IMAGES, IMAGES, IMAGES, levels=2, checksum="1" * 64)
RUNS = [Settings(seed=seed, learning_rate=rate) for rate in (1e-3, 1e-2) for seed in (0, 1)]
ROW = {"epoch": 1, "step": 3, "examples": 6, "split": "test", "elbo_nats": -3.0}


@pytest.fixture
def folder(tmp_path) -> ProgramFolder:
    """A program of four runs that was started."""
    folder = ProgramFolder(tmp_path / "program")
    folder.claim(RUNS, DATA)
    folder.close()
    return folder


# --- The runs


def test_the_runs_come_back_and_what_they_share_is_written_once(folder):
    record = folder.record()
    assert folder.runs() == RUNS
    assert [run["settings"] for run in record["runs"]] == [
        {"learning_rate": run.learning_rate, "seed": run.seed} for run in RUNS
    ]
    assert set(record["settings"]).isdisjoint({"learning_rate", "seed"})
    assert set(record["settings"]) | {"learning_rate", "seed"} == set(RUNS[0].json())


def test_a_setting_that_was_added_later_has_its_default(folder):
    record = folder.record()
    del record["settings"]["prng"], record["settings"]["epochs"]
    (folder.path / "runs.json").write_text(json.dumps(record))
    assert folder.runs() == RUNS


def test_a_run_has_a_name_and_a_folder_of_pictures_with_its_differing_settings(folder, tmp_path):
    assert folder.run_names()[3] == "run3_learning_rate=0.01_seed=1"
    assert folder.figures()[3] == folder.path / "figures/run3_learning_rate=0.01_seed=1"
    alone = write_program(tmp_path / "alone", [Written(Settings())])
    assert alone.figures()[0] == tmp_path / "alone/figures"


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([Settings(seed=run.seed, learning_rate=run.learning_rate, epochs=7) for run in RUNS], ["epochs=200"]),
        ([Settings(hidden=(3,), batch_size=8), *RUNS[1:]], [f"hidden={Settings().json()['hidden']}", "batch_size=64"]),
        (RUNS[1:3], ["seed=0", "learning_rate=0.001", "seed=1"]),
        (RUNS[:3], ["4 runs"]),
        ([*RUNS[:3], Settings(seed=9)], ["learning_rate=0.01", "seed=1"]),
    ],
)
def test_other_runs_are_refused_and_the_settings_that_differ_are_named(runs, words, folder):
    folder.check_runs(RUNS)
    folder.claim(RUNS, DATA)
    folder.close()
    before = (folder.path / "runs.json").read_bytes()
    for check in (folder.check_runs, lambda runs: folder.claim(runs, DATA)):
        with pytest.raises(ValueError, match="takes no further runs; choose another --workdir") as refused:
            check(runs)
        folder.close()
        [named] = re.findall(r"holds a run with other settings \((.*?)\),", str(refused.value))
        assert sorted(word.split(" and not ")[0] for word in named.split(", ")) == sorted(words)
    assert (folder.path / "runs.json").read_bytes() == before


def test_other_data_are_refused(folder):
    folder.check_data(DATA)
    for check in (folder.check_data, lambda data: folder.claim(RUNS, data)):
        with pytest.raises(ValueError, match=r"holds a run on other data \(digits has changed\)"):
            check(DATA._replace(checksum="2" * 64))
    folder.close()


def test_the_folder_of_the_data_is_known_in_every_working_directory_while_it_exists(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    folder = ProgramFolder(tmp_path / "program")
    monkeypatch.chdir(tmp_path)
    folder.claim(RUNS, DATA, "data")
    folder.close()
    monkeypatch.chdir("/")
    assert folder.data_dir() == str(tmp_path / "data")
    (tmp_path / "data").rmdir()
    assert folder.data_dir() is None


def test_data_without_a_checksum_are_those_with_the_checksum_of_their_files(tmp_path):
    """Images that stay on disk have only the checksum of their files."""
    streamed = DATA._replace(checksum="", files_checksum="1" * 64)
    folder = ProgramFolder(tmp_path / "program")
    folder.claim(RUNS, streamed)
    folder.close()
    folder.check_data(streamed)
    folder.check_data(streamed._replace(checksum="2" * 64))
    with pytest.raises(ValueError, match="holds a run on other data"):
        folder.check_data(streamed._replace(files_checksum="3" * 64))


def test_the_data_are_described():
    data = DATA._replace(validation=IMAGES[:0], test=IMAGES[:1], levels=256)
    assert program_folder.describe_data(data, None) == {
        "name": "digits",
        "checksum": "1" * 64,
        "images": {"train": 2, "validation": 0, "test": 1},
        "shape": [2, 2, 1],
        "grey_levels": 256,
    }


def test_code_that_continues_a_program_is_added_and_the_last_of_it_is_compared(folder):
    record = folder.record() | {"code": "0" * 16}
    (folder.path / "runs.json").write_text(json.dumps(record))
    assert folder.changed_code() == ["the project"]
    folder.record_change_of_code()  # of a program that has not begun
    assert folder.changed_code() == []
    assert "continued" not in folder.record()
    (folder.path / "runs.json").write_text(json.dumps(record))
    folder.append([{"run": 0} | ROW])
    folder.record_change_of_code()
    assert folder.changed_code() == []
    assert (folder.record()["code"], len(folder.record()["continued"])) == ("0" * 16, 1)


def test_programs_are_found_in_their_order_and_by_their_own_folder(tmp_path):
    write_sweep(tmp_path / "sweep", [({"latent_dim": (n,)}, 0.0) for n in (1, 2, 3)])
    write_run(tmp_path / "run", Settings())
    (tmp_path / "sweep/programs/empty").mkdir()
    paths = lambda workdir: [folder.path for folder in programs_of(workdir)]
    assert paths(tmp_path / "sweep") == [tmp_path / f"sweep/programs/{i}" for i in range(3)]
    assert paths(tmp_path / "sweep/programs/1") == [tmp_path / "sweep/programs/1"]
    assert paths(tmp_path / "run") == [tmp_path / "run"]
    assert paths(tmp_path) == paths(tmp_path / "nowhere") == []


def test_a_program_has_begun_when_there_is_a_row_or_a_checkpoint(folder):
    assert not folder.has_begun()
    (folder.checkpoints / "1").mkdir(parents=True)
    assert folder.has_begun()
    checkpoint.drop_after(folder.checkpoints, 0)
    folder.forget_after(0)  # as a program does that starts from nothing
    assert not folder.has_begun()
    folder.append([{"run": 0} | ROW])
    assert folder.has_begun()


# --- Results


def test_results_are_of_their_runs_and_a_program_is_finished_when_every_run_has_one(folder):
    figures = {f"test_{name}_nats": 1.5 for name in ("nll", "elbo", "rate", "distortion")}
    done = {"status": "done", "step": 30} | figures
    assert not folder.is_finished()
    folder.write_results({1: {"status": "diverged", "step": 3}})
    folder.write_results({0: done, 2: done})
    first, second, third, fourth = folder.results()
    assert first == RUNS[0].json() | done
    assert second == RUNS[1].json() | {"status": "diverged", "step": 3}
    assert third == RUNS[2].json() | done
    assert fourth is None
    assert not folder.is_finished()
    folder.write_results({3: done})
    assert folder.is_finished()
    assert folder.runs() == RUNS
    assert not ProgramFolder(folder.path / "nowhere").is_finished()


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"status": None}, "does not hold the results of finished runs"),
        ({"step": None}, "does not hold the results of finished runs"),
        ({"test_nll_nats": None}, "does not hold the results of finished runs"),
        ({"seed": 3}, "does not hold the results of finished runs"),
        ({"status": "finished"}, "holds a value that is not a figure ('status')"),
        ({"status": True}, "holds a value that is not a figure ('status')"),
        ({"step": "2300"}, "holds a value that is not a figure ('step')"),
        ({"step": True}, "holds a value that is not a figure ('step')"),
        ({"step": 10**400}, "holds a value that is not a figure ('step')"),
        ({"test_nll_nats": [1.0]}, "holds a value that is not a figure ('test_nll_nats')"),
        ({"test_elbo_nats": {}}, "holds a value that is not a figure ('test_elbo_nats')"),
        ({"active_units_by_layer": 3}, "holds a value that is not a figure ('active_units_by_layer')"),
        ({"Best <b>": 1}, "holds a value that is not a figure ('Best <b>')"),
    ],
)
def test_a_result_that_is_none_is_one_sentence(figures, words, tmp_path):
    folder = write_program(tmp_path, [Written(run) for run in RUNS])
    assert all(folder.results())
    change_result(tmp_path, 2, **figures)
    sentence = f"{tmp_path}/runs.json {words}; restore the file, or choose another --workdir"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        folder.results()


def _fields(content, path=()):
    """The path of every value in nested JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _fields(value, (*path, key))


def _refusal(function) -> str:
    """What a function says when it refuses its input; empty if it does not."""
    try:
        function()
    except ValueError as error:
        return str(error)
    return ""


def test_whatever_runs_json_holds_it_is_read_or_refused_in_one_sentence(tmp_path):
    """Each value in turn is of another type, or gone. Every reader of the file returns, or says what is wrong."""
    folder = write_program(tmp_path, [Written(RUNS[0]), Written(RUNS[1], status=None)])
    record = folder.record()
    record |= {"imports": {"mine": "abc"}, "continued": [{"git_commit": "abc", "versions": {"jax": "1"}}]}
    record |= {"fallback": "runs differ"}
    record["data"] |= {"files_checksum": "0" * 64, "data_dir": "/nowhere"}
    read = (
        folder.runs,
        folder.fallback,
        folder.results,
        folder.is_finished,
        folder.run_names,
        folder.data_dir,
        folder.rows_by_run,
        lambda: folder.check_data(DATA._replace(checksum="0" * 64)),
        lambda: folder.check_runs(RUNS[:2]),
    )
    refused = set()
    for where in _fields(record):
        if where[0] == "settings" and where[-1] not in ("settings", "dataset", "latent_dim", "epochs", "data_mean"):
            continue
        for value in (None, True, -1, "\x1b[31m", [3], {"a": 1}, "gone"):
            changed = json.loads(json.dumps(record))
            container = changed
            for key in where[:-1]:
                container = container[key]
            if value == "gone":
                del container[where[-1]]
            else:
                container[where[-1]] = value
            (tmp_path / "runs.json").write_text(json.dumps(changed))
            slow = (folder.changed_code,) if where[0] in ("versions", "continued", "imports") else ()
            for function in (*read, *slow):
                if sentence := _refusal(function):
                    assert str(tmp_path) in sentence, (where, value)
                    assert "\n" not in sentence
                    refused.add(where)
    parts = [("settings",), ("runs",), ("data",), ("versions",), ("continued",), ("imports",), ("versions", "jax")]
    parts += [("fallback",)]
    parts += [("data", name) for name in ("name", "checksum", "files_checksum", "images")]
    parts += [("runs", 0), ("runs", 0, "settings"), ("runs", 0, "settings", "seed"), ("runs", 0, "result")]
    parts += [("runs", 0, "result", name) for name in ("status", "step", "test_nll_nats")]
    parts += [("continued", 0), ("continued", 0, "versions"), ("settings", "latent_dim"), ("settings", "dataset")]
    assert [part for part in parts if part not in refused] == []


def test_the_sentences_about_runs_json_say_what_to_do(tmp_path):
    folder = write_program(tmp_path, [Written(run) for run in RUNS])
    good = folder.record()
    path = tmp_path / "runs.json"
    for changed, sentence in (
        (good | {"runs": []}, f"{path} does not describe runs; restore the file, or choose another --workdir"),
        (good | {"runs": {"a": 1}}, f"{path} does not describe runs; restore the file, or choose another --workdir"),
        (
            good | {"settings": {"newer": 1}},
            f"{path} was written with another --import or version, or changed by hand: there is no setting newer",
        ),
        (
            good | {"settings": {"estimator": "mine"}, "imports": {"mypaper": "12ab"}},
            f"--workdir={tmp_path} was trained with --import=mypaper; add it, or in Python import mypaper first",
        ),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            folder.runs()
    path.unlink()
    with pytest.raises(ValueError, match=r"holds no run \(no runs.json\); give the folder of a trained run"):
        folder.runs()


# --- Rows


def test_rows_are_of_their_runs_in_their_order(folder):
    rows = [{"run": run} | ROW | {"epoch": epoch} for epoch in (1, 2) for run in (0, 1, 3)]
    folder.append(rows[:3])
    folder.append(rows[3:])
    assert folder.rows() == rows
    assert [[row["epoch"] for row in own] for own in folder.rows_by_run()] == [[1, 2], [1, 2], [], [1, 2]]
    assert {row["run"] for row in folder.rows_by_run()[3]} == {3}
    assert folder.rows_by_run("evaluations.jsonl") == [[], [], [], []]


@pytest.mark.parametrize("run", [4, -1, 10**6])
def test_a_row_of_a_run_that_does_not_exist_is_one_sentence(run, folder):
    folder.append([{"run": 0} | ROW, {"run": run} | ROW])
    sentence = f"{folder.path}/metrics.jsonl has a row of run {run}, and there are 4 runs"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        folder.rows_by_run()


@pytest.mark.parametrize("run", ["0", True, 0.0, None, [0]])
def test_a_run_that_is_no_number_is_no_row(run, folder):
    write_rows(folder.path / "metrics.jsonl", [{"run": 0} | ROW, {"run": run} | ROW])
    with pytest.raises(ValueError, match="line 2 is not a row; restore the file, or choose another --workdir"):
        folder.rows()


@pytest.mark.parametrize("end", ['{"run": 1, "epo', '{"run": 1', "{"])
def test_a_half_written_last_line_is_left_out_and_overwritten_by_the_next_rows(end, folder):
    first, second = {"run": 0} | ROW, {"run": 1} | ROW
    folder.append([first])
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text() + end)
    assert folder.rows() == [first]
    folder.append([second])
    assert folder.rows() == [first, second]
    assert path.read_text() == json.dumps(first) + "\n" + json.dumps(second) + "\n"


def test_a_broken_line_before_the_last_is_refused_with_its_number(folder):
    path: Path = folder.path / "metrics.jsonl"
    path.write_text(json.dumps({"run": 0} | ROW) + '\n{"run": 1, "epo\n' + json.dumps({"run": 1} | ROW) + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 2 is not a row"):
        folder.rows()


def test_what_comes_after_an_epoch_is_forgotten_for_all_runs(folder):
    for epoch in (1, 2, 3):
        folder.append([{"run": run} | ROW | {"epoch": epoch} for run in range(4)])
        folder.append([{"epoch": epoch, "step": 3 * epoch, "train_seconds": epoch / 2}], "timing.jsonl")
        (folder.checkpoints / str(epoch)).mkdir(parents=True)
    assert folder.seconds() == {1: 0.5, 2: 1.0, 3: 1.5}
    folder.forget_after(2)
    assert {row["epoch"] for row in folder.rows()} == {1, 2}
    assert [len(rows) for rows in folder.rows_by_run()] == [2] * 4
    assert folder.seconds() == {1: 0.5, 2: 1.0}
    assert checkpoint.steps(folder.checkpoints) == [1, 2]


@pytest.mark.parametrize("on_another_disk", [False, True])
def test_checkpoints_that_are_set_aside_are_kept_once(folder, on_another_disk, monkeypatch):
    def rename(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if on_another_disk:
        monkeypatch.setattr(os, "rename", rename)
    for content in ("first", "second"):
        for epoch in "123":
            (folder.checkpoints / epoch).mkdir(parents=True, exist_ok=True)
            (folder.checkpoints / epoch / "file").write_text(content)
        folder.set_checkpoints_aside([2, 3])
        assert checkpoint.steps(folder.checkpoints) == [1]
        for epoch in "23":
            assert (folder.path / "checkpoints.unreadable" / epoch / "file").read_text() == content


# --- Names


@pytest.mark.parametrize("value", ["a/b", "../..", "größe", "\0", "x" * 300, 1e-3, True])
def test_a_value_in_a_name_is_plain(value):
    name = program_folder.plain(value)
    assert len(name) <= 40
    assert name.isascii()
    assert set("/\\\0 ").isdisjoint(name)


def test_a_large_number_in_a_name_is_not_a_small_one():
    assert [program_folder.plain(value) for value in (1e25, 1e-25, "elbo:kl_warmup=1e+30")] == [
        "1e25",
        "1e-25",
        "elbo-kl_warmup-1e30",
    ]
