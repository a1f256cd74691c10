"""Text that comes from others is text: no markup of a page, no formula of a table, no command of a terminal.

The markup of the report itself is in tests/experiments/report/test_page.py.
"""

import csv
import html
import json
import re
import shutil
from pathlib import Path

import pytest

from experiments.common import cli, foreign_files, settings, tables, workdirs
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.report import __main__ as report
from experiments.report import charts as report_charts
from experiments.report import page as report_page
from tests.helpers.written_workdirs import Written, write_rows, write_run, write_workdir

MARKUP = "<script>alert(1)</script>"


@pytest.fixture
def no_plotly(monkeypatch):
    from plotly import offline

    monkeypatch.setattr(offline, "get_plotlyjs", lambda: "")


def _leaves(content, path=()):
    """(path, container, key) of every value in nested JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield (*path, key), content, key
        yield from _leaves(value, (*path, key))


HOSTILE = (MARKUP, "=cmd()", None, True, [], {MARKUP: 1}, -1, 10**400, float("nan"), float("inf"))


def _make_page(folder: Path) -> str:
    contents = workdirs.read([folder])
    return report_page.make_page(contents, report.compare(contents, None), "title")


def _shown_or_refused(folder: Path, what) -> bool:
    try:
        page = _make_page(folder)
        table = tables.to_csv([run.row for run in workdirs.read([folder]).runs])
    except ValueError:
        return False
    [charts] = re.findall('<script type="application/json" id="charts">(.*?)</script>', page)
    drawn = json.dumps(json.loads(charts))  # in which "<" is itself again
    assert MARKUP not in page + drawn, what
    assert not any(cell.startswith("=") for line in csv.reader(table.splitlines()) for cell in line), what
    return True


def _write_program(folder: Path) -> None:
    """Two runs, of which one is finished and was evaluated again, with everything that a runs.json may hold."""
    runs = [Written(Settings(seed=0)), Written(Settings(seed=1), status=None)]
    write_workdir(folder, runs, sweep=True)
    path = folder / "programs/0"
    record = json.loads((path / "runs.json").read_text())
    record |= {"imports": {"mine": "abc"}, "continued": [{"git_commit": "abc", "versions": {"jax": "1"}}]}
    record |= {"fallback": "runs differ"}
    record["data"] |= {"files_checksum": "0", "data_dir": "/nowhere"}
    (path / "runs.json").write_text(json.dumps(record))
    row = {"run": 0, "epoch": 100, "eval_samples": 50, "test_nll_nats": 21.9, "git_commit": "", "versions": "jax 1"}
    write_rows(path / "evaluations.jsonl", [row, row])


@pytest.mark.parametrize("name", ["runs.json", "metrics.jsonl", "timing.jsonl", "evaluations.jsonl"])
def test_whatever_a_program_holds_is_shown_as_text_or_refused(name, tmp_path, no_plotly):
    """Each value of each file in turn is one that does not belong there, or its name is, or it is gone."""
    _write_program(tmp_path)
    path, outcomes = tmp_path / "programs/0" / name, set()
    good = path.read_text()
    first, *rest = [good] if name.endswith(".json") else good.splitlines(keepends=True)
    for where, *_ in _leaves(json.loads(first)):
        for value in (*HOSTILE, "gone", *(["name"] if isinstance(where[-1], str) else [])):
            content = json.loads(first)
            [(container, key)] = [(c, k) for at, c, k in _leaves(content) if at == where]
            if value == "gone":
                del container[key]
            elif value == "name":
                container[MARKUP] = container.pop(key)
            else:
                container[key] = value
            path.write_text("".join([json.dumps(content) + "\n" * (rest != []), *rest]))
            outcomes.add(_shown_or_refused(tmp_path, (where, value)))
    assert outcomes == {True, False}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"epoch": ' * 100_000, "\0" * 100, "1\n", "[]\n", "\xff\n"])
@pytest.mark.parametrize("name", ["runs.json", "metrics.jsonl"])
def test_whatever_a_file_is_it_is_read_or_refused(name, text, tmp_path):
    write_run(tmp_path, Settings())
    folder, path = ProgramFolder(tmp_path), tmp_path / name
    unended = name == "metrics.jsonl" and not text.endswith("\n")  # what a kill may leave
    path.write_bytes((path.read_bytes() if unended else b"") + text.encode("latin-1"))
    if unended:
        assert len(folder.rows()) == 3
        return
    with pytest.raises(ValueError, match=name):
        (folder.runs(), folder.results(), folder.rows())


def write_laboratory(folder: Path, command: str = "python", **changed) -> None:
    row = {"problem": "p", "estimator": "e", "num_samples": 1, "declared_biased": False, "truth": "t"}
    row |= {"flops": 1, "seconds": 1, "phi_verdict": "best"}
    row |= {f"phi_{figure}": 0.5 for figure in foreign_files.LABORATORY}
    config = {"command": command, "versions": {}}
    config |= {"settings": {"draws": 10, "confidence": 0.95, "objective": MARKUP}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.csv").write_text(tables.to_csv([row, row | changed]))


def test_whatever_the_laboratory_left_is_shown_as_text_or_refused(tmp_path, no_plotly):
    write_laboratory(tmp_path / "good")
    assert _shown_or_refused(tmp_path / "good", "good")
    columns = (tmp_path / "good/results.csv").read_text().splitlines()[0].split(",")
    for column in columns:
        for value in (MARKUP, "", -1, "1e999", "9" * 5000, True):
            write_laboratory(tmp_path / "changed", **{column: value})
            _shown_or_refused(tmp_path / "changed", (column, value))
            shutil.rmtree(tmp_path / "changed")
        write_laboratory(tmp_path / "renamed")
        path = tmp_path / "renamed/results.csv"
        path.write_text(path.read_text().replace(column, MARKUP, 1))
        _shown_or_refused(tmp_path / "renamed", column)
        path.write_text(path.read_text() + ",,,\n" * 2 + "," * 99)
        assert not _shown_or_refused(tmp_path / "renamed", "long lines")
        shutil.rmtree(tmp_path / "renamed")


@pytest.mark.parametrize("place", ["phi", "point"])
def test_a_columns_name_is_words(place, tmp_path, no_plotly):
    """It stands on an axis, where plotly reads tags: refused, and were it not, plain."""
    link = '<a href="https://evil.example/">open</a>'
    write_laboratory(tmp_path / "a")
    path = tmp_path / "a/results.csv"
    head, *lines = path.read_text().splitlines()
    lines = [line.replace("p,", f"p,{number},", 1) for number, line in enumerate(lines)]
    head = head.replace("problem,", "problem,point,", 1)
    path.write_text("\n".join([head, *lines]))
    assert _shown_or_refused(tmp_path / "a", "good")
    path.write_text("\n".join([head.replace(place, link.replace('"', "")), *lines]))
    assert not _shown_or_refused(tmp_path / "a", place)
    path.write_text("\n".join([head.replace(place, "two words-1.5"), *lines]))
    [laboratory] = workdirs.read([tmp_path / "a"]).laboratories
    rows = [{name.replace("two words-1.5", link): cell for name, cell in row.items()} for row in laboratory.rows]
    forged, group = laboratory._replace(rows=rows), link if place == "phi" else "phi"
    charts = [
        report_charts.variance_against_cost(rows, group),
        report_charts.bias(rows, group),
        report_charts.against(forged, group, "num_samples", "snr"),
        report_charts.against(forged, group, forged.point, "variance"),
    ]
    assert all(charts)
    assert "<a" not in json.dumps(charts)
    assert "&lt;a href" in json.dumps(charts)


def test_whatever_a_toy_left_is_shown_as_text_or_refused(tmp_path, no_plotly):
    good = tmp_path / "good"
    good.mkdir()
    head = {"settings": {"toy": MARKUP, "steps": 10, "seeds": 1, "num_samples": 2}, "command": "python", "versions": {}}
    row = {"point": "p", "estimator": "e", "family": "f", "final_loss": 1, "final_loss_stderr": "", "first_variance": 1}
    curve = {"point": "p", "estimator": "e", "seed": 0, "step": 0, "loss": 1.0, "variance": 1.0}
    tables_of = {"results.csv": row, "curves.csv": curve}
    for name, line in tables_of.items():
        (good / name).write_text(tables.to_csv([line]))
    (good / "config.json").write_text(json.dumps(head))
    assert _shown_or_refused(good, "good")
    for where, *_ in _leaves(head):
        for value in HOSTILE:
            changed = json.loads(json.dumps(head))
            [(container, key)] = [(c, k) for at, c, k in _leaves(changed) if at == where]
            container[key] = value
            (good / "config.json").write_text(json.dumps(changed))
            _shown_or_refused(good, (where, value))
    (good / "config.json").write_text(json.dumps(head))
    for name, line in tables_of.items():
        for column in line:
            for value in (MARKUP, "", -1, "1e999", "9" * 5000, True):
                (good / name).write_text(tables.to_csv([line | {column: value}]))
                _shown_or_refused(good, (name, column, value))
        (good / name).write_text(tables.to_csv([line]))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python -m x; rm -rf ~ $(touch x) 'y z'", "python -m 'x;' rm -rf '~' '$(touch' 'x)' 'y z'"),
        ("it's; rm", "'it'\"'\"'s; rm'"),
    ],
)
def test_a_command_on_a_page_is_words(command, shown, tmp_path, no_plotly):
    write_laboratory(tmp_path / "a", command)
    page = _make_page(tmp_path / "a")
    assert shown in html.unescape(re.sub("</?span>", "", page))


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "\t=1", "+cmd|' /C calc'!A0", "-2+3+cmd|'x'!A0", "-(1)"])
def test_a_table_holds_no_formula(text):
    [_, line] = csv.reader(tables.to_csv([{"x": text}]).splitlines())
    assert line == [f"'{text}"]


@pytest.mark.parametrize("text", ["-1.5", "+0.46", "+0.5 for large K, arXiv:1810.04152", "a = b", "-"])
def test_a_table_holds_numbers_as_they_are(text):
    [_, line] = csv.reader(tables.to_csv([{"x": text}]).splitlines())
    assert line == [text]
    assert tables.to_csv([{"x": -1.5}]) == "x\n-1.5\n"


def test_a_cell_is_one_cell():
    assert (
        tables.to_markdown([["name"], ["a|b"]]).count("|") == 7
    )  # three lines' ends, and the one behind its backslash


def test_a_sentence_commands_no_terminal(capsys):
    with pytest.raises(SystemExit):
        cli.stop("holds \x1b]0;title\x07 and \x9b31m, ünd \udcff")
    assert capsys.readouterr().err == "error: holds \\x1b]0;title\\x07 and \\x9b31m, ünd \\udcff\n"
    with pytest.raises(ValueError, match="cannot be printed"):
        settings.from_json({"dataset": "npz:\x1b[2J"})
