"""How programs are trained: one after the other, compiled ahead, and in halves if memory is short."""

import concurrent.futures
import re
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common import assess
from experiments.common.settings import Settings
from experiments.train import loop, sweep
from experiments.train.step_cost import StepCost
from experiments.train.sweep import Program
from vae import checkpoint


class Folder:
    """A program's folder on no disk, which remembers what was done to it."""

    def __init__(self, path, begun=False):
        self.path, self.begun, self.done = path, begun, []

    def has_begun(self):
        return self.begun

    def remove(self):
        self.done.append("removed")

    def claim(self, runs, data, data_dir):
        self.done.append([run.seed for run in runs])

    def close(self):
        self.done.append("closed")


def program(name: str, runs: int, begun: bool = False) -> Program:
    return Program(
        number=1,
        name=name,
        runs=[Settings(seed=seed) for seed in range(runs)],
        folder=Folder("W", begun),
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
        return [run.seed for run in program.runs]

    def compile_program(program, sweep_mode):
        done.append(("compile", seeds(program)))
        return SimpleNamespace(program=program, mode="map", memory=lambda: (len(program.runs), 2))

    def run_epochs(compiled, options, hook):
        done.append(("train", seeds(compiled.program)))

    def measure_cost(program):
        return seeds(program)

    def write_results(compiled, progress, cost, options, hook):
        assert cost == seeds(compiled.program)
        done.append(("evaluate", seeds(compiled.program)))
        return [f"seed {seed} diverged" for seed in seeds(compiled.program)]

    for step in (compile_program, run_epochs, measure_cost, write_results):
        monkeypatch.setattr(loop, step.__name__, step)
    return done


OPTIONS = SimpleNamespace(sweep_mode="auto", data_dir=None, on_evaluation=None)


def test_runs_that_fit_are_compiled_trained_and_evaluated_together(calls, capsys):
    sentences = loop.train(program("program 1 of 2, hidden=8", runs=2), OPTIONS)
    assert calls == [("compile", [0, 1]), ("train", [0, 1]), ("evaluate", [0, 1])]
    assert sentences == ["seed 0 diverged", "seed 1 diverged"]
    assert re.fullmatch(r"program 1 of 2, hidden=8, runs: 2 \(after \d+ s\)\n", capsys.readouterr().out)


def test_new_runs_that_do_not_fit_are_halved_and_each_half_is_finished_in_order(calls, capsys, monkeypatch):
    folders = {}
    monkeypatch.setattr(sweep, "ProgramFolder", lambda path: folders.setdefault(path, Folder(path)))
    whole = program("", runs=5)
    sentences = loop.train(whole, OPTIONS)
    finished = [call for call in calls if call[0] != "compile"]
    assert finished == [(step, seeds) for seeds in ([0, 1], [2], [3, 4]) for step in ("train", "evaluate")]
    assert sentences == [f"seed {seed} diverged" for seed in range(5)]
    assert capsys.readouterr().out.count("they train in two halves") == 2
    assert whole.folder.done == ["removed"]
    done = {path: folder.done for path, folder in folders.items()}
    whole, halves = {"W-2": [[2, 3, 4], "removed"]}, {"W-1": [0, 1], "W-2-1": [2], "W-2-2": [3, 4]}
    assert done == whole | {path: [seeds, "closed"] for path, seeds in halves.items()}


def test_runs_that_have_begun_together_stay_together(calls):
    """Their checkpoint holds all of them, and they fitted into the memory before."""
    loop.train(program("", runs=5, begun=True), OPTIONS)
    assert calls == [(step, [0, 1, 2, 3, 4]) for step in ("compile", "train", "evaluate")]


def test_the_next_program_is_compiled_while_one_trains(calls, monkeypatch):
    programs = [program(f"program {i + 1} of 3", runs=i + 1, begun=True) for i in range(3)]
    begun = [threading.Event() for _ in programs]
    finish = loop.run_epochs

    def compile_program(program, sweep_mode):
        begun[len(program.runs) - 1].set()
        return SimpleNamespace(program=program, mode="map", memory=lambda: (1, 2))

    def run_epochs(compiled, options, hook):
        number = len(compiled.program.runs)
        assert all(event.wait(timeout=60) for event in begun[: number + 1])
        assert not any(event.is_set() for event in begun[number + 1 :])  # one program ahead is enough
        finish(compiled, options, hook)

    monkeypatch.setattr(loop, "compile_program", compile_program)
    monkeypatch.setattr(loop, "run_epochs", run_epochs)
    sentences = loop.train_all(programs, OPTIONS)
    assert calls == [(step, list(range(runs))) for runs in (1, 2, 3) for step in ("train", "evaluate")]
    assert len(sentences) == 6
    assert loop.train_all([], OPTIONS) == []


def test_a_command_that_stops_begins_no_further_task(calls, monkeypatch):
    """The measurements and compilations that wait behind the one in progress are left out."""
    measuring, stopped = threading.Event(), threading.Event()

    def measure_cost(program):
        calls.append(("measure", len(program.runs)))
        measuring.set()
        stopped.wait(timeout=60)

    def run_epochs(compiled, options, hook):
        assert measuring.wait(timeout=60)
        raise SystemExit(143)

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def shutdown(self, wait=True, **options):
            super().shutdown(wait=False, **options)
            stopped.set()
            super().shutdown(wait)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(loop, "measure_cost", measure_cost)
    monkeypatch.setattr(loop, "run_epochs", run_epochs)
    with pytest.raises(SystemExit):
        loop.train_all([program(f"program {i + 1} of 2", runs=i + 1, begun=True) for i in range(2)], OPTIONS)
    assert calls == [("compile", [0]), ("measure", 1)]


@pytest.mark.parametrize(("checkpoint_every", "dropped"), [(0, [9]), (3, [])])
def test_every_run_has_its_own_result_or_the_step_at_which_it_diverged(checkpoint_every, dropped, monkeypatch):
    """Three runs with three steps an epoch, which are evaluated in two parts. Run 1 diverged at step 7."""
    results, deleted = {}, []
    monkeypatch.setattr(checkpoint, "steps", lambda path: [3, 9])
    monkeypatch.setattr(checkpoint, "drop_before", lambda path, step: deleted.append(step))
    parts = [{0: {"test_nll_nats": 10.0}, 1: {"test_nll_nats": 11.0}}, {2: {"test_nll_nats": 12.0}}]
    monkeypatch.setattr(assess, "test_figures", lambda *arguments: iter(parts))
    trained = program("", runs=3)._replace(data=SimpleNamespace(validation=[0]))
    trained.folder.checkpoints = None
    trained.folder.write_results = results.update
    trained.folder.run_path = lambda i: f"run {i}"
    elbo = [[-9.0, -8.0], [], [-7.0, -6.0]]
    trained.folder.rows_by_run = lambda: [[{"elbo_nats": value} for value in curve] for curve in elbo]
    progress = SimpleNamespace(state=None, failed_step=np.array([0, 7, 0]))
    options = SimpleNamespace(checkpoint_every=checkpoint_every)
    compiled = SimpleNamespace(program=trained, devices=None)

    [sentence] = loop.write_results(compiled, progress, StepCost(evaluations=2, flops=1e6), options, hook=None)

    shared = {"status": "done", "step": 3 * Settings().epochs, "step_evaluations": 2, "step_flops": 1e6}
    assert results == {
        0: shared | {"test_nll_nats": 10.0, "validation_elbo_nats": -8.0},
        1: {"status": "diverged", "step": 7},
        2: shared | {"test_nll_nats": 12.0, "validation_elbo_nats": -6.0},
    }
    assert sentence.startswith("run 1: the loss, or the gradient before it, was not finite at step 7;")
    assert "the folder keeps the state of epoch 2" in sentence
    assert deleted == dropped
