"""The page needs no other file, stays small, and never treats text as markup."""

import math
import re
import shutil

import numpy as np
import pytest

from experiments.common.settings import Settings
from experiments.report import __main__ as report
from experiments.report import page as page_module
from tests.helpers.report_pages import Page, make_page, run_command
from tests.helpers.written_workdirs import PNG, Written, write_program, write_run, write_sweep, write_workdir
from tests.helpers.wrong_files import unknown_names


def test_the_page_loads_no_other_file_and_its_bytes_do_not_change(swept):
    folder, page = swept
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    assert unknown_names(folder) == set()
    text = (folder / "report.html").read_bytes()
    assert len(text) < 10_000_000
    assert b"@import" not in text.split(b"</style>")[0]
    assert b"url(" not in text.split(b"</style>")[0]
    make_page(folder)
    assert (folder / "report.html").read_bytes() == text


def test_text_is_never_markup(tmp_path):
    bad = "npz:/tmp/<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>%{y}</title>"
    folder = tmp_path / "<b onclick=alert(3)>&amp;"
    write_sweep(folder, [({"dataset": bad}, 0.0), ({"dataset": "digits"}, 1.0)])
    page = make_page(folder)
    assert page.alerts == 0
    assert not [load for load in page.loads if not load.startswith(("#", "data:"))]
    assert len(page.scripts) == 3  # the charts, plotly and our own script
    assert bad in page.text
    assert folder.name in page.text
    assert "<script>alert" not in (folder / "report.html").read_text()


def test_pictures_that_make_the_page_too_large_are_left_out_and_named(tmp_path):
    large = PNG + b"\0" * 1_500_000
    folder = write_sweep(tmp_path, [({"latent_dim": (n,)}, float(n)) for n in (1, 2, 3, 4)], picture=large)
    page = make_page(folder)
    assert (folder / "report.html").stat().st_size < 10_000_000
    assert sum(load.startswith("data:image") for load in page.loads) == 2
    assert "Not shown, to keep the file small" in page.text
    assert str(folder / "programs/3/figures") in page.text


def test_a_page_with_too_many_points_shows_fewer_of_them(tmp_path, monkeypatch):
    """The horizontal coordinates are stored once, and numbers have seven digits. A larger page loses points."""
    from plotly import offline

    monkeypatch.setattr(offline, "get_plotlyjs", lambda: "")
    curve = {epoch: -100 - 400 * math.exp(-epoch / 20) for epoch in range(1, 201)}
    write_workdir(
        tmp_path, [Written(Settings(seed=i % 3, learning_rate=1e-3 * (1 + i // 3)), elbo=curve) for i in range(30)]
    )
    whole = make_page(tmp_path)
    chart = whole.charts[0]
    assert not any("x" in trace for trace in chart["data"])
    assert [trace["y"] for trace in chart["data"]] == 40 * [[float(f"{value:.7g}") for value in curve.values()]]
    assert len(whole.scripts[0]) < 40 * 200 * 36  # bytes of a point: y, and x in steps, examples and seconds
    assert "evaluations is drawn" not in whole.text
    limit = (tmp_path / "report.html").stat().st_size - 3 * len(whole.scripts[0]) // 5
    monkeypatch.setattr(page_module, "MAX_BYTES", limit)
    small = make_page(tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= limit
    assert "Only one of 4 evaluations is drawn, to keep the file small." in small.text
    for trace, places in zip(small.charts[0]["data"], small.charts[0]["choices"][0]["x"], strict=True):
        assert trace["y"] == chart["data"][0]["y"][3::4]
        assert places == [23 * epoch for epoch in range(4, 201, 4)]
    assert small.tables == whole.tables


def test_a_long_table_is_shown_in_pages_and_is_not_compared_pair_by_pair(tmp_path):
    """All lines are in the file, also for readers without scripts."""
    page = make_page(write_sweep(tmp_path, [({"learning_rate": 1e-4 * n}, float(n)) for n in range(1, 52)]))
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="sortable paged"') == 2
    assert len(page.tables["summary"]) == len(page.tables["rows"]) == 52
    assert "pairs" not in page.tables
    shown = [load for load in page.loads if load.startswith("data:image")]
    assert len(shown) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "lines"),
    [(("learning_rate",), 1000), (("seed",), 1), (("learning_rate", "batch_size", "seed"), 100)],
)
def test_the_page_of_a_thousand_runs_has_less_than_ten_megabytes(names, lines, tmp_path):
    """The runs differ in one setting, in their seeds, or in three settings with ten values each."""
    places = np.unravel_index(np.arange(1000), (1000,) if len(names) == 1 else (10, 10, 10))
    value = {"learning_rate": lambda n: round(1e-5 * (n + 1), 5), "batch_size": lambda n: 16 + n, "seed": int}
    points = [
        {name: value[name](n) for name, n in zip(names, place, strict=True)} for place in np.transpose(places).tolist()
    ]
    page = make_page(write_sweep(tmp_path, [(point, 0.01 * i) for i, point in enumerate(points)]))
    assert (tmp_path / "report.html").stat().st_size < 10_000_000
    assert len(page.tables["rows"]) == 1001
    assert len(page.tables["summary"]) == 1 + lines


def test_equal_settings_in_two_workdirs_get_two_rows(tmp_path, capsys):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        write_run(tmp_path / name, Settings(), shift)
    run_command(report, f"--workdir={tmp_path}/a,{tmp_path}/b", f"--output={tmp_path}/both.html")
    said = capsys.readouterr().out
    assert "2 runs" in said
    assert re.match(r"reading \(after \d+ s\)\ndrawing \(after \d+ s\)\n", said)
    page = Page((tmp_path / "both.html").read_text())
    assert [line[0][0] for line in page.tables["summary"][1:]] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_unfinished_runs_are_counted_and_have_no_row(tmp_path):
    write_sweep(tmp_path, [({"seed": 0}, 0.0)])
    write_program(tmp_path / "programs/9", [Written(Settings(seed=1), status=None)])
    page = make_page(tmp_path)
    assert "1 of 2 runs are not finished" in page.text
    assert len(page.tables["summary"]) == 2
    shutil.rmtree(tmp_path / "programs/0")
    assert "summary" not in make_page(tmp_path).tables


def test_the_page_shows_the_runs_that_run_chooses(swept, tmp_path):
    folder, page = swept
    run_command(report, f"--workdir={folder}", "--run=learning_rate=1e-3", f"--output={tmp_path}/some.html")
    some = Page((tmp_path / "some.html").read_text())
    cells = [[text for text, _ in line] for line in page.tables["rows"][1:]]
    shown = [[text for text, _ in line] for line in some.tables["rows"][1:]]
    assert len(cells) == 4
    assert shown == [line[1:] for line in cells if line[0] == "0.001"]  # the learning rate is no longer a column
    assert [trace["y"] for trace in some.charts[0]["data"][:2]] == [
        trace["y"] for trace in page.charts[0]["data"] if trace["y"][0] in (-24.97, -25.27)
    ]
    assert ["learning_rate", "0.001"] in [[text for text, _ in line] for line in some.tables["alike"]]


def test_a_bug_while_the_page_is_made_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a bug")

    write_run(tmp_path, Settings())
    monkeypatch.setattr(report, "make_page", broken)
    with pytest.raises(ValueError, match="a bug"):
        make_page(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --workdir"),
        (["--workdir="], "give --workdir"),
        (["--workdir=nowhere"], "--workdir=nowhere does not exist"),
        (["--workdir=swept", "--output=swept"], "is a folder"),
        (["--workdir=empty"], "holds no run"),
        (["--workdir=broken"], "not valid JSON"),
        (["--workdir=rowless"], "no rows in results.csv"),
        (["--workdir=swept", "--run=seed=1"], "--run=seed=1 matches none of the 1 runs in swept"),
        (["--workdir=swept", "--run=speed=1"], "there is no setting speed"),
        (["--workdir=swept", "--output=swept/programs/0/runs.json/x.html"], "runs.json is a file, not a folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "swept", [({}, 0.0)])
    for name, text in (("empty", ""), ("broken", "{"), ("rowless", '{"command": "x"}')):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.json").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        run_command(report, *arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))
