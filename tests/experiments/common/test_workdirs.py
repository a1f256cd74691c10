"""Workdirs are read as they were written, and damaged results are named."""

import json

import pytest

from experiments.common import tables, workdirs
from experiments.common.settings import Settings
from tests.helpers.written_workdirs import Written, write_program, write_run, write_sweep


def test_the_runs_of_a_setting_are_together_and_the_best_setting_is_first(tmp_path):
    points = [({"learning_rate": 1e-3, "seed": seed}, 1.0) for seed in (0, 1)]
    points += [({"learning_rate": 1e-2, "seed": seed}, 0.0) for seed in (0, 1)]
    write_sweep(tmp_path, points)

    contents = workdirs.read([tmp_path])

    assert contents.names == ["learning_rate"]
    seeds = {label: sorted(run.row["seed"] for run in runs) for label, runs in contents.runs_by_label().items()}
    assert list(seeds.items()) == [("learning_rate=0.01", [0, 1]), ("learning_rate=0.001", [0, 1])]


def test_an_unfinished_run_has_its_settings_as_row_and_is_last(tmp_path):
    write_sweep(tmp_path, [({"learning_rate": 1e-3}, 0.0)])
    write_program(tmp_path / "programs/9", [Written(Settings(learning_rate=1e-2), status=None)])

    contents = workdirs.read([tmp_path])

    assert list(contents.runs_by_label()) == ["learning_rate=0.001", "learning_rate=0.01"]
    assert [row["learning_rate"] for row in contents.finished] == [1e-3]


def test_runs_of_several_workdirs_have_the_name_of_their_workdir(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, Settings())

    contents = workdirs.read([tmp_path / "a", tmp_path / "b"])

    assert contents.names == ["workdir"]
    assert [run.row["workdir"] for run in contents.runs] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_damaged_result_below_the_workdir_is_left_out_and_named(tmp_path, capsys):
    write_run(tmp_path, Settings())
    folder = tmp_path / "gradients"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"command": "python"}))
    (folder / "results.csv").write_text(tables.to_csv([{"problem": "quadratic"}]))

    contents = workdirs.read([tmp_path])

    assert (len(contents.runs), contents.laboratories) == (1, [])
    assert f"left out: {folder} does not hold a result" in capsys.readouterr().out
    with pytest.raises(ValueError, match="leave it out of --workdir"):
        workdirs.read([folder])


@pytest.mark.parametrize("content", ["[1]", "{", "\udcff"])
def test_a_file_of_others_below_the_workdir_is_left_out_and_named(content, tmp_path, capsys):
    write_run(tmp_path, Settings())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/config.json").write_text(content, errors="surrogateescape")
    assert len(workdirs.read([tmp_path]).runs) == 1
    assert f"left out: {tmp_path / 'sub/config.json'}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="config.json"):
        workdirs.read([tmp_path / "sub"])
