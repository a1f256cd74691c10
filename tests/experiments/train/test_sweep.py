"""How the runs of a command become programs."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.train import sweep
from experiments.train.sweep import Program, Run, Sweep


@pytest.fixture
def options():
    return SimpleNamespace(
        program=0, data_dir=None, cache_dir=None, streaming="auto", profile_steps=None, keep=2, launcher="local"
    )


def test_runs_that_differ_in_numbers_share_a_program_and_others_do_not(options, tmp_path):
    runs = [Settings(hidden=(width,), seed=seed) for width in (8, 4) for seed in (0, 1)]
    programs = Sweep(runs, tmp_path, options).programs
    assert [program.name for program in programs] == ["program 1 of 2, hidden=8", "program 2 of 2, hidden=4"]
    assert [[run.settings for run in program.runs] for program in programs] == [runs[:2], runs[2:]]


def test_a_single_program_needs_no_name(options, tmp_path):
    [program] = Sweep([Settings(seed=0), Settings(seed=1)], tmp_path, options).programs
    assert program.name == ""


def test_a_job_has_its_own_program_and_knows_all_runs(options, tmp_path):
    options.program = 2
    runs = [Settings(hidden=(width,)) for width in (8, 4)]
    one = Sweep(runs, tmp_path, options)
    assert [run.settings for program in one.programs for run in program.runs] == runs[1:]
    assert [run.settings for run in one.runs] == runs


def test_a_run_that_is_claimed_cannot_be_claimed_again(options, tmp_path):
    [program] = Sweep([Settings(hidden=(4,))], tmp_path, options).claim()
    with contextlib.closing(program.folders[0]):
        assert len(program.runs) == 1
        with pytest.raises(ValueError, match="is being trained by process"):
            Sweep([Settings(hidden=(4,))], tmp_path, options).claim()


@pytest.mark.parametrize(
    ("epochs", "parts"),
    [
        ({"a": [], "b": []}, ["ab"]),  # new runs
        ({"a": [2, 3], "b": [2, 3]}, ["ab"]),
        ({"a": [2, 3], "b": [3, 4]}, ["ab"]),  # they go on from epoch 3
        ({"a": [2, 3], "b": [2, 3], "c": []}, ["ab", "c"]),  # a larger sweep
        ({"a": [2, 3], "b": [5, 6], "c": []}, ["b", "a", "c"]),
    ],
)
def test_runs_train_together_if_that_takes_none_of_them_back(epochs, parts, tmp_path):
    for name, found in epochs.items():
        for epoch in found:
            (tmp_path / name / "checkpoints" / str(epoch)).mkdir(parents=True)
            (tmp_path / name / "metrics.jsonl").touch()
    runs = [Run(Settings(seed=seed), RunFolder(tmp_path / name)) for seed, name in enumerate(epochs)]
    whole = Program("", runs, data=None, streamed=False, functions=None, profile=None)
    split = sweep._split_by_progress(whole)
    assert ["".join(folder.path.name for folder in part.folders) for part in split] == parts


def test_halves_keep_the_order_of_the_runs():
    whole = Program("", list("abcde"), data=None, streamed=False, functions=None, profile=None)
    assert [half.runs for half in whole.halves()] == [["a", "b"], ["c", "d", "e"]]
    assert whole.with_runs(np.array([True, False, False, True, False])).runs == ["a", "d"]
    assert whole.with_runs(np.array([4, 0])).runs == ["e", "a"]
