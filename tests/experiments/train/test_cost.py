"""What is done for a program is not done again for each of its runs: programs, files and checkpoints are counted."""

import re
from pathlib import Path

import pytest

from tests.helpers.entry_points import Outcome, run_all, training

COUNTED = "compiled_programs_are_counted"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def counts(outcome: Outcome) -> dict[str, int]:
    assert outcome.code == 0, outcome.err
    [(compiled, saved)] = re.findall("compiled (\\d+), saved (\\d+)", outcome.out)
    return {"compiled": int(compiled), "saved": int(saved)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Sweeps of three and of nine runs, with pictures."""
    folder = tmp_path_factory.mktemp("swept")
    sweeps = {"small": "--seed=0,1,2", "large": "--seed=0,1,2,3,4,5,6,7,8"}
    calls = [
        training(
            f"--workdir={folder / name}", seeds, "--validation_size=200", "--epochs=4", "--figures=sweep", fault=COUNTED
        )
        for name, seeds in sweeps.items()
    ]
    outcomes = run_all(calls, folder / "outcomes")
    return {name: (folder / name, counts(outcome)) for name, outcome in zip(sweeps, outcomes, strict=True)}


def test_a_larger_sweep_compiles_no_more_programs_and_writes_one_checkpoint(swept):
    (_, small), (_, large) = swept["small"], swept["large"]
    assert large == small
    assert large["saved"] == 1
    assert large["compiled"] < 30


def test_a_larger_sweep_leaves_no_more_files(swept):
    small, large = (files(folder) for folder, _ in (swept["small"], swept["large"]))
    # Orbax splits the arrays of a checkpoint among files by their sizes.
    others = lambda paths: sorted(
        re.sub(r"run\\d+_seed=\\d+", "RUN", path.name) for path in paths if "ocdbt" not in str(path)
    )
    assert [name for name in others(large) if len(name) < 32] == [name for name in others(small) if len(name) < 32]
    assert len(large) < 50
