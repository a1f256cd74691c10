"""The commands in the section "How to repeat it" are those that the workdirs record."""

import json
from pathlib import Path

import pytest

from experiments.common import workdirs
from experiments.common.settings import Settings
from experiments.report import reproduce
from tests.helpers.written_workdirs import write_laboratory, write_run, write_sweep

TRAIN = "python -m experiments.train"


def write_sweep_with_config(folder: Path, config: str) -> Path:
    write_sweep(folder, [({"seed": seed}, 0.0) for seed in (0, 1)])
    (folder / "config.json").write_text(config)
    return folder


def record(*commands: str) -> str:
    """A config.json that describes these commands."""
    first, *later = [{"command": command, "settings": {}, "data": {}} for command in commands]
    return json.dumps(first | {"later": later})


def test_the_commands_of_a_workdir_are_in_their_order_each_once_and_quoted(tmp_path):
    first, second = f"{TRAIN} --seed=0,1 --workdir='a b'", f"{TRAIN} --seed=0,1,2 --workdir=$HOME --measure_gradient=1"
    sweep = write_sweep_with_config(tmp_path / "sweep", record(first, second, first))
    quoted = [
        first.replace("--workdir='a b'", "'--workdir=a b'"),
        second.replace("--workdir=$HOME", "'--workdir=$HOME'"),
    ]
    assert reproduce.commands(workdirs.read([sweep])) == quoted
    assert reproduce.commands(workdirs.read([sweep], run="seed=1")) == quoted
    assert reproduce.commands(workdirs.read([sweep / "programs/0"])) == quoted  # the folder of one program


def test_every_workdir_has_its_commands(tmp_path):
    write_run(tmp_path / "run", Settings())
    sweep = write_sweep_with_config(tmp_path / "sweep", record(f"{TRAIN} --seed=0,1"))
    write_laboratory(tmp_path / "laboratory", "phi", [{"problem": "p", "estimator": "e", "num_samples": 1}])
    contents = workdirs.read([sweep, tmp_path / "run", tmp_path / "laboratory"])
    assert reproduce.commands(contents) == [f"{TRAIN} --seed=0,1", TRAIN, "python"]


@pytest.mark.parametrize("config", [None, "", "[1]", "{}", '{"command": 3, "later": 5}', '{"command": "\\ud800"}'])
@pytest.mark.parametrize("where", ["", "programs/0"])
def test_a_damaged_record_of_the_commands_is_not_recorded(where, config, tmp_path):
    write_sweep_with_config(tmp_path, config or "")
    if config is None:
        (tmp_path / "config.json").unlink()
    contents = workdirs.read([tmp_path / where])
    assert reproduce.commands(contents) == [f"# {tmp_path / where}: not recorded"]
    assert "<span>not</span> <span>recorded</span>" in reproduce.section(contents).html


def test_a_link_above_the_folder_of_a_program_is_not_followed(tmp_path):
    sweep = write_sweep_with_config(tmp_path / "sweep", record(TRAIN))
    (sweep / "config.json").rename(tmp_path / "private.json")
    (sweep / "config.json").symlink_to(tmp_path / "private.json")
    assert reproduce.commands(workdirs.read([sweep / "programs/0"])) == [f"# {sweep / 'programs/0'}: not recorded"]
