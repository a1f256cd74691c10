"""Whatever happens in a section is a line of the table, and the other cases and sections go on."""

import math
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.gpu_check.guard import TIME_IS_OVER, Context, Wrong, measure, measure_cases


def some_fail(context):
    def divides_by_zero():
        return {"number": 1 / 0}

    def kills_its_process():
        os.kill(os.getpid(), signal.SIGKILL)

    return {
        "good": lambda: {"small": context.small},
        "bad": divides_by_zero,
        "after the bad one": lambda: {"number": 2.5},
        "deadly": kills_its_process,
        "never": dict,
    }


def hangs(context):
    def hang():
        (context.folder / "pid").write_text(f"{os.getpid()}\n")
        time.sleep(600)

    return {"hangs": hang, "never": dict}


def test_a_failure_and_a_death_are_lines_and_the_other_cases_are_measured(tmp_path):
    context = Context(small=True, deadline=time.monotonic() + 300, folder=tmp_path)
    rows = measure(some_fail, context, tmp_path / "log")
    assert [row.pop("seconds", None) is not None for row in rows] == [True, True, True, False, False]
    assert rows == [
        {"case": "good", "small": True},
        {"case": "bad", "failed": "ZeroDivisionError: division by zero"},
        {"case": "after the bad one", "number": 2.5},
        {"case": "deadly", "failed": f"its process ended with status {-signal.SIGKILL}"},
        {"case": "never", "skipped": "the case before it ended the process"},
    ]


def test_a_section_that_hangs_is_ended(tmp_path):
    """Its process may be ended before it has begun, and then it has one row."""
    rows = measure(hangs, Context(small=True, deadline=time.monotonic(), folder=tmp_path), tmp_path / "log")
    assert {row["skipped"] for row in rows} == {TIME_IS_OVER}
    assert [row["case"] for row in rows] in (["start"], ["hangs", "never"])


def test_a_section_ends_with_the_command(tmp_path):
    """The process of the section is a child of the command, which is killed here."""
    context = Context(small=True, deadline=time.monotonic() + 600, folder=tmp_path)
    command = multiprocessing.get_context("spawn").Process(target=measure, args=(hangs, context, tmp_path / "log"))
    command.start()
    await_that(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    status = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    assert is_alive(status)
    command.kill()
    command.join()
    await_that(lambda: not is_alive(status))


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(status: Path) -> bool:
    return status.exists() and status.read_text().rsplit(")")[-1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (ImportError("there is no pytest"), {"failed": "ImportError: there is no pytest"}),
        (Wrong("two numbers differ\nin the second line"), {"failed": "two numbers differ"}),
        (RuntimeError(), {"failed": "RuntimeError: no message"}),
        (subprocess.TimeoutExpired("python", 3), {"skipped": TIME_IS_OVER}),
    ],
)
def test_an_exception_is_one_sentence(error, row):
    def fail():
        raise error

    [names, measured] = measure_cases(lambda: {"case": fail}, math.inf)
    assert names == {"cases": ["case"]}
    assert measured == {"case": "case", "seconds": measured["seconds"]} | row
    if "failed" in row:
        assert list(measure_cases(fail, math.inf)) == [{"cases": ["start"]}, {"case": "start"} | row]


def test_no_case_starts_after_the_deadline():
    rows = list(measure_cases(lambda: {"a": dict, "b": dict}, -math.inf))
    assert rows == [{"cases": ["a", "b"]}, *({"case": name, "skipped": TIME_IS_OVER} for name in "ab")]
