"""The order in which a sweep's programs are compiled, trained and judged."""

import json
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import jax
import pytest

from experiments.common import pictures
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.train import loop as epochs


def part(title: str, runs: int = 1) -> epochs.Part:
    return epochs.Part(title, None, None, False, [Settings(seed=i) for i in range(runs)], [None] * runs, nullcontext())


@pytest.fixture
def noted(monkeypatch):
    """What is done, in order, by steps that do nothing else. Two runs fit the memory. Judging "a" lasts until "b" is
    being compiled, which ends when the test ends it."""
    done, begun, end = [], threading.Event(), threading.Event()

    def prepare(part):
        done.append(("compile", part.title, len(part.runs)))
        if part.title == "b":
            begun.set()
            assert end.wait(60)
        return SimpleNamespace(part=part, devices=None, memory=lambda: (len(part.runs), 2))

    def train(compiled):
        done.append(("train", compiled.part.title, len(compiled.part.runs)))
        return 0, 0

    def judge(part, devices, state, failed_steps):
        if part.title == "a" and jax.default_backend() == "cpu":
            assert begun.wait(60)
        end.set()
        done.append(("judge", part.title, len(part.runs)))
        return [part.title]

    for name, step in {"prepare": prepare, "_train": train, "_judge": judge}.items():
        monkeypatch.setattr(epochs, name, step)
    return done


def test_the_next_program_compiles_while_one_is_judged_and_never_while_one_trains(noted):
    assert epochs.train_all([part("a"), part("b")]) == ["a", "b"]
    steps = ["compile a", "train a", "compile b", "judge a", "train b", "judge b"]
    assert noted == [(*step.split(), 1) for step in steps]


def test_on_an_accelerator_whose_kernels_the_compiler_measures_nothing_is_done_at_once(noted, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    epochs.train_all([part("a"), part("c")])
    assert noted == [(what, name, 1) for name in "ac" for what in ("compile", "train", "judge")]


def test_runs_that_do_not_fit_are_halved_in_order(noted, capsys):
    epochs.train_all([part("many", 5), part("a"), part("b")])
    assert [step for step in noted if step[0] == "train"] == [
        ("train", "", 2),
        ("train", "", 1),
        ("train", "", 2),
        ("train", "a", 1),
        ("train", "b", 1),
    ]
    assert capsys.readouterr().out.count("first one half, then the other") == 2


def test_a_result_is_there_before_its_pictures(monkeypatch, tmp_path):
    """Which may not fit the memory."""

    def draw(*args):
        assert json.loads((tmp_path / "result.json").read_text())["test_nll_nats"] == 1.0
        raise MemoryError

    monkeypatch.setattr(epochs, "FLAGS", SimpleNamespace(figures=True))
    monkeypatch.setattr(pictures, "draw_run", draw)
    run, state = Settings(epochs=2), SimpleNamespace(step=6, params={"model": {}})
    program, data = SimpleNamespace(steps_per_epoch=3, judged=None), SimpleNamespace(validation=())
    whole = part("a")._replace(program=program, data=data)
    with pytest.raises(MemoryError):
        epochs._conclude(whole, run, RunFolder(tmp_path), state, 0, lambda params: {"test_nll_nats": 1.0})
