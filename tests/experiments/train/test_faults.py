"""Faults while a run is trained: the command ends with one sentence, keeps what was finished, and can be continued."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.common.program_folder import programs_of
from experiments.train import loop
from tests.helpers.entry_points import Outcome, run_all, training
from tests.helpers.written_workdirs import forget_results
from vae import checkpoint

LENGTH = ["--epochs=6", "--checkpoint_every=1"]


def contents(folder: Path) -> dict[str, bytes]:
    """The files that must be the same whether or not a fault occurred."""
    names = ("metrics.jsonl", "results.csv", "checkpoints/6/digest/metadata")
    return {name: (folder / name).read_bytes() for name in names}


def assert_one_sentence(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 1, outcome
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err


def spoil(folder: Path, change) -> None:
    """Changes every data file of the newest checkpoint; which of them Orbax reads depends on how it wrote them."""
    newest = folder / "checkpoints" / str(checkpoint.steps(folder / "checkpoints")[-1])
    for path in newest.rglob("d/*"):
        path.write_bytes(change(path.read_bytes()))


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def disk(path: Path, options: str, unmounting: contextlib.ExitStack) -> Path | None:
    """A small disk that is mounted at `path`; None where this process may not mount."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True).returncode:
        return None
    unmounting.callback(subprocess.run, ["umount", path], check=True)
    return path


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The workdirs of runs with a fault, their outcomes, and the outcomes of those that were started again, by name."""
    folder = tmp_path_factory.mktemp("faults")
    disks = {"full": "size=2m", "tiny": "size=200k", "read_only": "size=2m,ro"}
    with contextlib.ExitStack() as unmounting:
        disks = {name: disk(folder / name, options, unmounting) for name, options in disks.items()}
        yield _calls(folder, disks)


def _calls(folder: Path, disks: dict[str, Path | None]):
    cases = {
        "undisturbed": LENGTH,
        "clock": LENGTH,
        "full": LENGTH,
        "tiny": ["--hidden=128"],
        "read_only": [],
        "gradient": ["--seed=0,1,2", "--epochs=3"],
        "loss": ["--learning_rate=1e-3,1e30,2e30", "--seed=0,1", "--validation_size=100", "--epochs=3"],
        "device": ["--objective=elbo", "--num_samples=100000000"],
        "host": [],
    }
    faults = {
        "clock": "clock_goes_backwards",
        "full": "disk_fills_up",
        "gradient": "gradient_of_seed_1_is_nan_at_step_30",
        "host": "an_array_is_larger_than_memory",
    }
    cases = {name: case for name, case in cases.items() if disks.get(name, folder)}
    workdirs = {name: folder / name / "run" for name in cases}
    first = [training(f"--workdir={workdirs[name]}", *case, fault=faults.get(name, "")) for name, case in cases.items()]
    outcomes = dict(zip(cases, run_all(first, folder / "outcomes"), strict=True))

    for name, change in {"short": lambda content: content[:100], "flipped": flip}.items():
        workdirs[name] = folder / name
        shutil.copytree(workdirs["undisturbed"], folder / name)
        forget_results(folder / name)
        spoil(folder / name, change)
    workdirs["all"] = folder / "all"
    shutil.copytree(folder / "short", folder / "all")
    shutil.rmtree(folder / "all/checkpoints/6")
    spoil(folder / "all", flip)
    again = ["short", "flipped", "all"]
    if disks["full"]:
        (disks["full"] / "filler").unlink()
        finished = {path.name for path in (workdirs["full"] / "checkpoints").iterdir()}
        again.append("full")
    second = [training(f"--workdir={workdirs[name]}", *LENGTH) for name in again]
    again.append("gradient")
    second = run_all([*second, training(f"--workdir={workdirs['gradient']}", *cases["gradient"])], folder / "again")
    assert not disks["full"] or any(name.isdigit() for name in finished)
    return workdirs, outcomes, dict(zip(again, second, strict=True))


def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(calls):
    workdirs, outcomes, again = calls
    if "full" not in outcomes:
        pytest.skip("needs the right to mount a small tmpfs")
    assert_one_sentence(outcomes["full"], "No space left on device", str(workdirs["full"]))
    assert (again["full"].code, again["full"].err) == (0, "")
    assert contents(workdirs["full"]) == contents(workdirs["undisturbed"])


@pytest.mark.parametrize("name", ["tiny", "read_only"])
def test_a_disk_that_cannot_take_the_run_is_refused_before_any_work(calls, name):
    workdirs, outcomes, _ = calls
    if name not in outcomes:
        pytest.skip("needs the right to mount a small tmpfs")
    assert_one_sentence(outcomes[name], f"--workdir={workdirs[name]}")
    assert not list(workdirs[name].parent.rglob("*.jsonl"))


@pytest.mark.parametrize("name", ["short", "flipped", "all"])
def test_damaged_checkpoints_are_told_of_and_end_with_the_same_bytes(calls, name):
    """The newest checkpoint of a run that was cut off is shortened, or has one bit of each file changed; or all
    checkpoints are damaged."""
    workdirs, _, again = calls
    assert again[name].code == 0, again[name].err
    assert again[name].err.count("is skipped") == 1, again[name].err
    assert "Traceback" not in again[name].err
    assert contents(workdirs[name]) == contents(workdirs["undisturbed"])
    assert (workdirs[name] / "checkpoints.unreadable" / ("5" if name == "all" else "6") / "state").exists()


def test_a_clock_that_goes_backwards_changes_nothing(calls):
    workdirs, outcomes, _ = calls
    for name in ("clock", "undisturbed"):
        assert (outcomes[name].code, outcomes[name].err) == (0, "")
    assert contents(workdirs["clock"]) == contents(workdirs["undisturbed"])
    timing = (workdirs["clock"] / "timing.jsonl").read_text()
    seconds = [json.loads(line)["train_seconds"] for line in timing.splitlines()]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_what_is_not_finite_stops_its_run_and_no_other(calls):
    workdirs, outcomes, again = calls
    sweep = outcomes["gradient"]
    assert_one_sentence(sweep, "seed=1", "not finite at step 31", "the state of epoch 1", "--clip_norm")
    assert_one_sentence(outcomes["loss"], "learning_rate=1e30", "not finite at step", "the state of epoch 0")
    assert outcomes["loss"].err.count("not finite at step") == 3
    assert outcomes["loss"].err.endswith("; 1 more diverged (see results.csv)\n")
    assert "diverged" in sweep.out
    assert_one_sentence(again["gradient"], "seed=1", "not finite at step 31 in an earlier command; delete")
    [program] = programs_of(workdirs["gradient"])
    assert [row["status"] for row in program.results()] == ["done", "diverged", "done"]
    [program] = programs_of(workdirs["loss"])  # the runs that diverged have no evaluation
    statuses = {(row["learning_rate"], row["status"]) for row in program.results()}
    assert statuses == {(1e-3, "done"), (1e30, "diverged"), (2e30, "diverged")}


def test_the_advice_to_a_diverged_run_fits_the_step():
    """At the first step the rate has hardly been used."""
    assert "--posterior" in loop._advice(1)
    assert "--clip_norm" not in loop._advice(1)
    assert "--clip_norm" in loop._advice(31)


@pytest.mark.parametrize("name", ["device", "host"])
def test_too_little_memory_says_which_flags_help(calls, name):
    """The device lacks memory for 8 TB of samples; the host lacks memory for 8 PB."""
    sentence = ("memory does not suffice", "--num_samples or --batch_size", "--sweep_mode=map")
    assert_one_sentence(calls[1][name], *sentence)
