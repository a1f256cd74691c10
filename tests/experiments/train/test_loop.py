"""How one program is trained: in parts if memory is short, and with its results written before its pictures."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common import pictures
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.train import loop
from experiments.train.sweep import Program, Run


def program(name: str, runs: int) -> Program:
    return Program(
        name=name,
        runs=[Run(Settings(seed=seed), None) for seed in range(runs)],
        data=None,
        streamed=False,
        functions=SimpleNamespace(steps_per_epoch=3, evaluated=None),
        profile=nullcontext(),
    )


@pytest.fixture
def calls(monkeypatch):
    """The steps of `loop.train` in order, each with its runs' seeds; the steps do nothing else. Two runs fit."""
    done = []

    def seeds(program):
        return [run.settings.seed for run in program.runs]

    def compile_program(program, sweep_mode):
        done.append(("compile", seeds(program)))
        return SimpleNamespace(program=program, memory=lambda: (len(program.runs), 2))

    def run_epochs(compiled, options):
        done.append(("train", seeds(compiled.program)))
        return None, None

    def write_results(compiled, state, failed_steps, figures):
        done.append(("evaluate", seeds(compiled.program)))
        return [f"seed {seed} diverged" for seed in seeds(compiled.program)]

    for step in (compile_program, run_epochs, write_results):
        monkeypatch.setattr(loop, step.__name__, step)
    return done


OPTIONS = SimpleNamespace(sweep_mode="auto", figures="none")


def test_runs_that_fit_are_compiled_trained_and_evaluated_together(calls, capsys):
    sentences = loop.train(program("program 1 of 2, hidden=8", runs=2), OPTIONS)
    assert calls == [("compile", [0, 1]), ("train", [0, 1]), ("evaluate", [0, 1])]
    assert sentences == ["seed 0 diverged", "seed 1 diverged"]
    assert capsys.readouterr().out == "program 1 of 2, hidden=8, runs: 2\n"


def test_runs_that_do_not_fit_are_halved_and_each_half_is_finished_in_order(calls, capsys):
    sentences = loop.train(program("", runs=5), OPTIONS)
    finished = [call for call in calls if call[0] != "compile"]
    assert finished == [(step, seeds) for seeds in ([0, 1], [2], [3, 4]) for step in ("train", "evaluate")]
    assert sentences == [f"seed {seed} diverged" for seed in range(5)]
    assert capsys.readouterr().out.count("they train in two halves") == 2


@pytest.fixture
def write_results(monkeypatch, tmp_path):
    """Writes the results of four runs, of which seed 1 diverged and seed 2 is the best; drawing a run fails."""
    losses = {0: 5.0, 2: 3.0, 3: 4.0}
    drawn = []

    def draw(folder, data, model, params):
        drawn.append(params)
        assert len(list(tmp_path.glob("*/result.json"))) == 4
        raise MemoryError

    def write(figures):
        runs = [Run(Settings(epochs=2, seed=seed), RunFolder(tmp_path / str(seed))) for seed in range(4)]
        for run in runs:
            run.folder.path.mkdir()
        whole = program("", runs=4)._replace(runs=runs, data=SimpleNamespace(validation=()))
        state_of = lambda devices, state, i: SimpleNamespace(step=3 if i == 1 else 6, params={"model": i})
        monkeypatch.setattr(loop.mesh, "run_of", state_of)
        monkeypatch.setattr(loop.assess, "make_test_figures", lambda *args: lambda i: {"test_nll_nats": losses[i]})
        monkeypatch.setattr(pictures, "draw_run", draw)
        compiled = SimpleNamespace(program=whole, devices=None)
        return loop.write_results(compiled, None, np.array([0, 5, 0, 0]), figures)

    return write, drawn


@pytest.mark.parametrize(("figures", "expected"), [("sweep", [2]), ("all", [0, 2, 3]), ("none", [])])
def test_the_best_run_of_a_program_is_drawn_or_every_finished_run_or_none(write_results, figures, expected):
    write, drawn = write_results
    [sentence] = write(figures)
    assert drawn == expected
    assert "/1: the loss" in sentence
    assert "not finite at step 5; the folder keeps the state of epoch 1;" in sentence


def test_all_results_are_there_before_a_picture_which_may_not_fit_the_memory(write_results, tmp_path, capsys):
    write, _ = write_results
    write("sweep")
    assert f"pictures are missing in {tmp_path}/2/figures (MemoryError" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/figures"))
