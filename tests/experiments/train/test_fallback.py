"""Runs that an accelerator computes wrongly side by side train one after the other, and the program's folder says why.

The tests run on the CPU: one fault switches the comparison on, and another makes runs side by side wrong.
"""

import shutil

import pytest

from experiments.common import files
from experiments.common.program_folder import ProgramFolder, programs_of
from tests.helpers.entry_points import run_all, training

SENTENCE = "runs side by side differ from single runs (params/model/params/"
CHECKED = "runs_side_by_side_are_checked"
WRONG = "runs_side_by_side_are_wrong"
WRONG_AND_CHECKED = "wrong_runs_side_by_side_are_checked"
# The arguments and the fault of each sweep. By default, such small networks train side by side.
SWEEPS = {
    "plain": ("--sweep_mode=vmap", ""),
    "checked": ("--sweep_mode=auto", CHECKED),
    "wrong": ("--sweep_mode=auto", WRONG),
    "one after the other": ("--sweep_mode=map", WRONG),
    "wrong, checked": ("--sweep_mode=vmap", WRONG_AND_CHECKED),
}


def sweep(folder, mode, fault):
    return training(f"--workdir={folder}", "--seed=0,1,2", "--checkpoint_every=1", mode, fault=fault)


def metrics(program: ProgramFolder) -> bytes:
    return (program.path / "metrics.jsonl").read_bytes()


def results(program: ProgramFolder) -> list[dict]:
    return [run["result"] for run in program.record()["runs"]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """For each sweep its program, and what the command printed."""
    folder = tmp_path_factory.mktemp("swept")
    outcomes = run_all([sweep(folder / name, *how) for name, how in SWEEPS.items()], folder / "outcomes")
    assert not [outcome for outcome in outcomes if outcome.code]
    programs = {name: programs_of(folder / name)[0] for name in SWEEPS}
    return {name: (programs[name], outcome.out) for name, outcome in zip(SWEEPS, outcomes, strict=True)}


def test_runs_that_are_wrong_side_by_side_train_one_after_the_other(swept):
    """Even if --sweep_mode asks for the opposite."""
    (program, out), (mapped, _) = swept["wrong, checked"], swept["one after the other"]
    assert out.count(SENTENCE) == 1
    assert "so the runs train one after the other (see runs.json)\n" in out
    assert program.fallback().startswith(SENTENCE)
    assert metrics(program) == metrics(mapped)
    assert results(program) == results(mapped)
    assert metrics(swept["wrong"][0]) != metrics(mapped)  # the control


def test_runs_that_are_right_side_by_side_train_so_and_nothing_is_said(swept):
    (program, out), (plain, _) = swept["checked"], swept["plain"]
    assert "side by side" not in out
    assert program.fallback() == plain.fallback() == ""
    assert metrics(program) == metrics(plain)


def test_a_resumed_program_stays_with_its_fallback(swept, tmp_path):
    """The last epoch is trained again by a command that would train the runs side by side without a check."""
    program, _ = swept["wrong, checked"]
    before = metrics(program)
    shutil.copytree(program.path.parents[1], tmp_path / "copy")
    [copy] = programs_of(tmp_path / "copy")
    shutil.rmtree(copy.checkpoints / "2")
    record = copy.record()
    files.write_json(copy.path / "runs.json", record | {"runs": [{"settings": r["settings"]} for r in record["runs"]]})
    [outcome] = run_all([sweep(tmp_path / "copy", "--sweep_mode=auto", WRONG)], tmp_path / "outcomes")
    assert outcome.code == 0, outcome.err
    assert metrics(copy) == before
    assert results(copy) == results(program)
