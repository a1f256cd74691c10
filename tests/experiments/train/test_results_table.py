"""What the end of a command says about the workdir, and which pictures it draws."""

import json
import shutil
from types import SimpleNamespace

import pytest

from experiments.common import pictures, program_state
from experiments.common.program_folder import programs_of
from experiments.common.settings import Settings
from experiments.train import draw, results_table
from tests.helpers import written_workdirs


@pytest.fixture
def sweep(tmp_path):
    """Two programs with three seeds each, of which seed 1 of the first diverged; later seeds are better."""
    points = [{"estimator": name, "objective": "elbo", "seed": i} for name in ("reparam", "stl") for i in range(3)]
    written_workdirs.write_sweep(tmp_path, [(point, -point["seed"]) for point in points])
    runs = [Settings(**point) for point in points]
    first, second = programs_of(tmp_path)
    for folder in (first, second):
        shutil.rmtree(folder.path / "figures")
    first.write_results({1: {"status": "diverged", "step": 31}})
    programs = [
        SimpleNamespace(
            runs=folder.runs(), settings=folder.runs()[0], data=None, functions=SimpleNamespace(evaluated=0)
        )
        for folder in (first, second)
    ]
    return SimpleNamespace(workdir=tmp_path, runs=runs, programs=programs)


def test_programs_of_another_version_are_left_out_of_the_tables_and_lose_nothing(sweep, capsys):
    ours, theirs = programs_of(sweep.workdir)
    record = theirs.record()
    record["settings"]["estimator"] = "mine"
    (theirs.path / "runs.json").write_text(json.dumps(record))
    finished = results_table.finished_runs(sweep.workdir)
    assert {run.folder.path for run in finished} == {ours.path}
    assert [run.row["status"] for run in finished] == ["done", "diverged", "done"]
    assert "left out of the tables" in capsys.readouterr().out
    assert theirs.record() == record


@pytest.fixture
def drawn(sweep, monkeypatch):
    """Draws the pictures that --figures asks for; the drawn runs, as (estimator, seed), and the number of sweeps."""
    done = []

    def note(name, *words):
        def draw(folder, numbers, *_):
            for number in numbers:
                run = folder.runs()[number]
                done.append((run.estimator, run.seed, *words))
                folder.figures()[number].mkdir(parents=True, exist_ok=True)
                (folder.figures()[number] / f"{name}.png").write_bytes(b"")

        return draw

    monkeypatch.setattr(pictures, "draw_curves", note("learning_curves", "curves"))
    monkeypatch.setattr(pictures, "draw_models", note("reconstructions"))
    monkeypatch.setattr(pictures, "draw_sweep", lambda path, runs, names: done.append(("sweep", len(runs))))
    state = SimpleNamespace(state=SimpleNamespace(params={"model": ()}))
    monkeypatch.setattr(program_state, "restore", lambda *arguments: state)

    def draw_all(figures: str) -> list[tuple[str, int]]:
        done.clear()
        draw.draw(sweep, results_table.finished_runs(sweep.workdir), figures)
        return list(done)

    return draw_all


def test_a_sweep_draws_what_compares_its_runs_and_the_best_run_of_each_setting(drawn):
    assert drawn("none") == []
    assert drawn("sweep") == [("sweep", 6), ("reparam", 2), ("stl", 2)]
    assert drawn("sweep") == [("sweep", 6)]  # what is there is not drawn again
    more = drawn("all")
    assert more[0] == ("sweep", 6)
    assert [one for one in more if one[-1] != "curves"][1:] == [("reparam", 0), ("stl", 0), ("stl", 1)]
    with_curves = {one[:2] for one in more if one[-1] == "curves"}
    assert with_curves == {("reparam", 0), ("reparam", 2), ("stl", 0), ("stl", 1), ("stl", 2)}


def test_of_a_program_with_many_settings_the_best_ones_are_drawn(tmp_path):
    """Eight learning rates with two seeds: a higher rate is better, and so is the second seed."""
    points = [{"learning_rate": rate, "seed": seed} for rate in range(1, 9) for seed in (0, 1)]
    written_workdirs.write_sweep(tmp_path, [(point, -point["learning_rate"] - 0.1 * point["seed"]) for point in points])
    chosen = draw._best_of_each_setting(results_table.finished_runs(tmp_path))
    assert [(run.settings.learning_rate, run.settings.seed) for run in chosen] == [(8 - i, 1) for i in range(6)]


def test_the_runs_are_compared_when_all_of_them_are_finished(drawn, sweep):
    sweep.runs.append(Settings(seed=7))
    assert drawn("sweep") == [("reparam", 2), ("stl", 2)]


def test_the_command_says_where_the_pictures_of_runs_are(drawn, capsys):
    said = lambda figures: drawn(figures) and capsys.readouterr().out
    begin, places = said("sweep").splitlines()
    assert begin.startswith("drawing (after ")
    assert places.startswith("pictures of runs: ")
    assert places.endswith("/figures/run2_seed=2 and 1 more")


def test_a_picture_that_fails_loses_nothing_and_keeps_no_other_from_being_drawn(sweep, monkeypatch, capsys):
    def fail(*arguments):
        raise MemoryError

    for name in ("draw_models", "draw_sweep"):
        monkeypatch.setattr(pictures, name, fail)
    monkeypatch.setattr(program_state, "restore", lambda *arguments: None)
    draw.draw(sweep, results_table.finished_runs(sweep.workdir), "sweep")
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 3
    assert f"pictures are missing in {sweep.workdir}/figures (MemoryError" in err[0]
    assert all("holds no checkpoint that can be read" in line for line in err[1:])
