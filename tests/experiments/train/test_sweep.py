"""How the runs of a command become programs."""

import contextlib
import json

import pytest

from experiments.common import cli, locks, provenance
from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import Settings
from experiments.train import multihost
from experiments.train.flags import Options
from experiments.train.sweep import Program, Sweep, partition
from tests.helpers.train_options import make_options


@pytest.fixture
def options():
    return make_options()


def test_runs_that_differ_in_numbers_share_a_program_and_others_do_not(options, tmp_path):
    runs = [Settings(hidden=(width,), seed=seed) for width in (8, 4) for seed in (0, 1)]
    programs = Sweep(runs, tmp_path, options).programs
    assert [program.name for program in programs] == ["program 1 of 2, hidden=8", "program 2 of 2, hidden=4"]
    assert [program.runs for program in programs] == [runs[:2], runs[2:]]
    names = [program.folder.path.name for program in programs]
    assert [name.rpartition("_")[0] for name in names] == ["hidden=8", "hidden=4"]


def test_a_single_program_needs_no_name(options, tmp_path):
    [program] = Sweep([Settings(seed=0), Settings(seed=1)], tmp_path, options).programs
    assert program.name == ""


def test_a_job_has_its_own_program_and_knows_all_runs(tmp_path):
    runs = [Settings(hidden=(width,)) for width in (8, 4)]
    one = Sweep(runs, tmp_path, make_options("--program=2"))
    assert [program.runs for program in one.programs] == [runs[1:]]
    assert one.runs == runs


def test_a_program_that_is_claimed_cannot_be_claimed_again(options, tmp_path):
    [program] = Sweep([Settings(hidden=(4,))], tmp_path, options).claim()
    with contextlib.closing(program.folder):
        assert len(program.runs) == 1
        with pytest.raises(ValueError, match="is in use by process"):
            Sweep([Settings(hidden=(4,))], tmp_path, options).claim()


def test_a_larger_sweep_continues_the_program_that_is_there_and_makes_one_of_the_new_runs(options, tmp_path):
    small = [Settings(seed=seed) for seed in (0, 1)]
    first = Sweep(small, tmp_path, options)
    with contextlib.closing(first):
        [program] = first.claim()
    assert (program.folder.runs(), program.folder.path.parent) == (small, tmp_path / "programs")

    larger = [Settings(seed=seed) for seed in (2, 1, 0)]
    second = Sweep(larger, tmp_path, options)
    with contextlib.closing(second):
        assert [program.runs for program in second.claim()] == [small, larger[:1]]
    assert len(programs_of(tmp_path)) == 2
    # A part of the sweep continues its whole program.
    assert [program.runs for program in Sweep(small[1:], tmp_path, options).programs] == [small]


def test_runs_that_were_trained_in_halves_stay_in_their_halves():
    runs = [Settings(seed=seed) for seed in range(5)]
    present = {"programs/name-1": runs[:2], "programs/name-2": runs[2:4]}
    first, second, new = partition([runs], present, swept=["seed"])
    assert (first, second) == ((1, "programs/name-1", runs[:2]), (1, "programs/name-2", runs[2:4]))
    assert (new.number, new.runs) == (1, runs[4:])


@pytest.mark.parametrize("number", [1, 3])
def test_a_process_with_an_empty_folder_has_the_programs_of_process_0(number, options, tmp_path, monkeypatch):
    """Both processes are this one: the second reads the text that the first sent."""
    sent = []
    runs = [Settings(latent_dim=(4, 2), objective="elbo", seed=seed) for seed in range(number)]
    if number > 1:
        with contextlib.closing(Sweep(runs[:2], tmp_path / "first", options)) as smaller:
            smaller.claim()
    monkeypatch.setattr(multihost, "text_from_first", lambda text: sent.append(text) or text)
    first = Sweep(runs, tmp_path / "first", options)
    monkeypatch.setattr(multihost, "is_first", lambda: False)
    monkeypatch.setattr(multihost, "text_from_first", lambda _: sent[-1])
    second = Sweep(runs, tmp_path / "second", options)
    assert [program.runs for program in second.programs] == [program.runs for program in first.programs]
    names = lambda sweep: [program.folder.path.relative_to(sweep.workdir) for program in sweep.programs]
    assert names(second) == names(first)


def test_a_program_that_has_not_begun_is_that_of_the_code_that_will_begin_it(options, tmp_path, capsys):
    runs = [Settings(hidden=(width,)) for width in (8, 4)]
    with contextlib.closing(Sweep(runs, tmp_path, options)) as sweep:
        first, second = (program.folder for program in sweep.claim())
    for folder in (first, second):
        (folder.path / "runs.json").write_text(json.dumps(folder.record() | {"code": "an older one"}))
    second.append([{"run": 0, "epoch": 1}])
    with contextlib.closing(Sweep(runs, tmp_path, options)) as sweep:
        sweep.claim()
    assert "1 of 2 runs were begun by code that has changed since (the project)" in capsys.readouterr().out
    new = provenance.code_digest()[:8]
    assert [provenance.code_versions(folder.record()) for folder in (first, second)] == [new, f"an older, then {new}"]
    assert provenance.code_versions({"continued": [first.record()]}) == f"unknown, then {new}"


def test_finished_programs_are_not_trained_again(options, tmp_path):
    runs = [Settings(hidden=(width,)) for width in (8, 4)]
    sweep = Sweep(runs, tmp_path, options)
    with contextlib.closing(sweep):
        first, second = sweep.claim()
        first.folder.write_results({0: {"status": "diverged", "step": 3}})
    again = Sweep(runs, tmp_path, options)
    with contextlib.closing(again):
        assert [program.runs for program in again.claim()] == [second.runs]
        [sentence] = again.diverged()
        locks.claim(first.folder.path).close()  # others may use a finished program
        with pytest.raises(ValueError, match="is in use"):
            locks.claim(second.folder.path)
    assert sentence.startswith(f"{first.folder.path}: the training was not finite at step 3 in an earlier command")


def test_a_single_run_lies_in_the_workdir_and_takes_no_other_runs(options, tmp_path):
    [program] = Sweep([Settings()], tmp_path, options).claim()
    program.folder.close()
    assert program.folder.path == tmp_path
    for others, sentence in (
        ([Settings(seed=1)], "other settings .seed=0."),
        ([Settings(), Settings(seed=1)], "single"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Sweep(others, tmp_path, options)


def test_config_describes_each_command_that_added_runs_once(options, tmp_path):
    for seeds in ((0, 1), (0, 1), (0, 1, 2)):
        with contextlib.closing(Sweep([Settings(seed=seed) for seed in seeds], tmp_path, options)) as sweep:
            sweep.claim()
    config = json.loads((tmp_path / "config.json").read_text())
    assert [one["settings"]["seed"] for one in (config, *config["later"])] == [[0, 1], [0, 1, 2]]
    assert config["settings"]["dataset"] == config["data"]["name"] == "digits"


def test_config_lists_the_commands_that_trained_the_runs(options, tmp_path, monkeypatch):
    runs = [Settings(hidden=(width,)) for width in (8, 4)]
    job = make_options("--program=1")

    def listed_after(command: str, chosen: Options) -> list[str]:
        monkeypatch.setattr(cli, "this_command", lambda: command)
        with contextlib.closing(Sweep(runs, tmp_path, chosen)) as sweep:
            sweep.claim()
        config = json.loads((tmp_path / "config.json").read_text())
        return [one["command"] for one in (config, *config.get("later", []))]

    assert listed_after("train --program=1", job) == ["train --program=1"]
    assert listed_after("train", options) == ["train --program=1", "train"]
    # A job of a cluster trains a part of a listed command.
    assert listed_after("train --launcher=local --program=1", job) == ["train --program=1", "train"]
    # The same settings, and other evaluations.
    assert listed_after("train --eval_every=2", options) == ["train --program=1", "train", "train --eval_every=2"]
    # This command trains nothing.
    monkeypatch.setattr(ProgramFolder, "is_finished", lambda folder: True)
    assert listed_after("train --keep=3", options) == ["train --program=1", "train", "train --eval_every=2"]


def test_the_folder_of_another_command_is_refused_before_anything_is_written(options, tmp_path):
    (tmp_path / "config.json").write_text('{"command": "python -m experiments.compare_estimators", "settings": {}}')
    with pytest.raises(ValueError, match="does not describe a training"):
        Sweep([Settings()], tmp_path, options)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_halves_keep_the_order_of_the_runs():
    folder = ProgramFolder("W/programs/name")
    whole = Program(1, "", list("abcde"), folder, data=None, streamed=False, functions=None, profile=None)
    first, second = whole.halves()
    assert (first.runs, second.runs) == (["a", "b"], ["c", "d", "e"])
    assert [half.folder.path.name for half in (first, second)] == ["name-1", "name-2"]
