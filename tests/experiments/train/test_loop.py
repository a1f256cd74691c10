"""How one program is trained: in parts if memory is short, and with its results written before its pictures."""

import json
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
        functions=SimpleNamespace(steps_per_epoch=3, judged=None),
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
        done.append(("judge", seeds(compiled.program)))
        return [f"seed {seed} diverged" for seed in seeds(compiled.program)]

    for step in (compile_program, run_epochs, write_results):
        monkeypatch.setattr(loop, step.__name__, step)
    return done


OPTIONS = SimpleNamespace(sweep_mode="auto", figures=False)


def test_runs_that_fit_are_compiled_trained_and_judged_together(calls, capsys):
    sentences = loop.train(program("program 1 of 2, hidden=8", runs=2), OPTIONS)
    assert calls == [("compile", [0, 1]), ("train", [0, 1]), ("judge", [0, 1])]
    assert sentences == ["seed 0 diverged", "seed 1 diverged"]
    assert capsys.readouterr().out == "program 1 of 2, hidden=8, runs: 2\n"


def test_runs_that_do_not_fit_are_halved_and_each_half_is_finished_in_order(calls, capsys):
    sentences = loop.train(program("", runs=5), OPTIONS)
    finished = [call for call in calls if call[0] != "compile"]
    assert finished == [(step, seeds) for seeds in ([0, 1], [2], [3, 4]) for step in ("train", "judge")]
    assert sentences == [f"seed {seed} diverged" for seed in range(5)]
    assert capsys.readouterr().out.count("first one half, then the other") == 2


def test_a_result_is_there_before_its_pictures_which_may_not_fit_the_memory(monkeypatch, tmp_path, capsys):
    def draw(*args):
        assert json.loads((tmp_path / "result.json").read_text())["test_nll_nats"] == 1.0
        raise MemoryError

    monkeypatch.setattr(pictures, "draw_run", draw)
    run = Run(Settings(epochs=2), RunFolder(tmp_path))
    whole = program("", runs=1)._replace(runs=[run], data=SimpleNamespace(validation=()))
    state = SimpleNamespace(step=6, params={"model": {}})
    judge = lambda params: {"test_nll_nats": 1.0}
    assert loop.write_result(whole, run, state, np.int32(0), judge, figures=True) is None
    assert f"pictures are missing in {tmp_path}/figures (MemoryError" in capsys.readouterr().err
