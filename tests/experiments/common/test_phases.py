"""The lines that say what a command is doing."""

import io
import re

from experiments.common import phases


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Takes the place of `time` in the module; it shows `now`."""

    def __init__(self, now: float):
        self.now = now

    def monotonic(self) -> float:
        return self.now


def test_a_line_has_the_seconds_since_the_command_began(monkeypatch, capsys):
    monkeypatch.setattr(phases, "time", Clock(phases._STARTED + 95.2))
    phases.say("evaluating")
    assert capsys.readouterr().out == "evaluating (after 95 s)\n"


def test_each_item_has_a_line_before_its_turn_without_a_terminal(capsys):
    seen = []
    for item in phases.each(["a", "b"], "measuring", lambda item: f"{item} K=1"):
        seen.append((item, re.sub(r"\d+ s", "0 s", capsys.readouterr().out)))
    assert seen == [
        ("a", "measuring 1 of 2: a K=1 (after 0 s)\n"),
        ("b", "measuring 2 of 2: b K=1 (after 0 s)\n"),
    ]


def test_a_terminal_shows_a_bar_in_place_of_the_lines(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    assert list(phases.each(["a", "b"], "measuring")) == ["a", "b"]
    assert screen.getvalue() == ""
    assert "measuring" in capsys.readouterr().err


def test_steps_say_once_a_minute_where_they_are(monkeypatch, capsys):
    clock = Clock(phases._STARTED)
    monkeypatch.setattr(phases, "time", clock)
    with phases.steps(total=60, done=0) as advance:
        for epoch in range(1, 7):
            clock.now += 25.0
            advance(10, f"epoch {epoch}/6")
    assert capsys.readouterr().out == "epoch 3/6 (after 75 s)\nepoch 6/6 (after 150 s)\n"


def test_images_are_counted(monkeypatch, capsys):
    clock = Clock(phases._STARTED)
    monkeypatch.setattr(phases, "time", clock)
    with phases.images(total=2000, title="evaluating") as count:
        for _ in range(2):
            clock.now += 60.0
            count(1000)
    said = "evaluating, image 1,000 of 2,000 (after 60 s)\nevaluating, image 2,000 of 2,000 (after 120 s)\n"
    assert capsys.readouterr().out == said


def test_a_terminal_shows_steps_in_a_bar(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with phases.steps(total=60, done=20) as advance:
        advance(40, "epoch 6/6")
    assert screen.getvalue() == ""
    assert "60/60" in capsys.readouterr().err
