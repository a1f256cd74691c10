"""The report: its numbers are the rows', it needs no other file, it shows no text as markup, and a browser reads it."""

import base64
import csv
import dataclasses
import json
import math
import shutil
from html.parser import HTMLParser

import pytest
from absl import flags

from experiments.common import plots_gradients, results, settings, tables
from experiments.common.settings import Settings
from experiments.compare_estimators import __main__ as compare_estimators
from experiments.report import __main__ as report
from experiments.report import charts as report_charts
from experiments.report import contents as report_contents
from experiments.report import page as report_page

# One pixel, the smallest PNG there is.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
VERSIONS = {"python": "3.11", "jax": "0.10.2"}


def run(entry, *arguments):
    values = flags.FlagValues()
    entry.define_flags(values)
    values(["", *arguments])
    entry.main(values)


def write_run(folder, run: Settings, shift=0.0, finished=True, picture=PNG):
    """What experiments.train leaves behind."""
    (folder / "figures").mkdir(parents=True)
    data = {"name": run.dataset, "images": {"train": 10}, "checksum": "0" * 64}
    config = {
        "settings": run.json(),
        "data": data,
        "versions": VERSIONS,
        "device": "1 x cpu",
        "platform": "cpu, x86_64, 2 cores",
    }
    (folder / "config.json").write_text(json.dumps(config | {"git_commit": "abc"}))
    rows = [
        {"epoch": e, "step": 23 * e, "examples": 1472 * e, "split": "test", "elbo_nats": -25.0 - shift + 3 * e / 100}
        for e in (1, 10, 100)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    times = [{"epoch": row["epoch"], "step": row["step"], "train_seconds": 0.01 * row["epoch"]} for row in rows]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    if finished:
        figures = {"test_nll_nats": 22.123456 + shift, "test_elbo_nats": -23.1 - shift, "active_units": 8}
        figures |= {"test_rate_nats": 4.5 + shift, "test_distortion_nats": 18.6}
        if run.binarization == "none":
            figures["test_bits_per_dim"] = 4.321 + shift
        if run.validation_size:
            figures["validation_elbo_nats"] = -24.1 - shift
        row = run.json() | {"status": "done", "step": 2300, **figures}
        (folder / "result.json").write_text(json.dumps(row))
        (folder / "figures/reconstructions.png").write_bytes(picture)


def sweep(folder, points, **options):
    for i, (point, shift) in enumerate(points):
        write_run(folder / "runs" / str(i), Settings(**point), shift, **options)
    return folder


class Page(HTMLParser):
    """The tables of a page, cell by cell (text, data-value), its charts, and whatever it would load."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tables, self.loads, self.scripts, self.text, self.alerts = {}, [], [], "", 0
        self._table = self._cell = self._script = None
        self.feed(text)
        self.charts = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "href", "data", "action") if name in attributes]
        self.alerts += any(name.startswith("on") for name in attributes)
        if tag == "table":
            self._table = self.tables.setdefault(attributes["aria-label"], [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._cell = ["", attributes.get("data-value")]
        if tag == "script":
            self._script = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._table[-1].append(tuple(self._cell))
            self._cell = None
        if tag == "script":
            self.scripts.append("".join(self._script))
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script.append(data)
            return
        self.text += data
        if self._cell:
            self._cell[0] += data


def read(folder, *arguments):
    run(report, f"--workdir={folder}", *arguments)
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two learning rates of two seeds each, with every figure that a table can have; one of them evaluated again."""
    alike = {"binarization": "none", "likelihood": "gaussian", "validation_size": 300}
    points = [
        ({"learning_rate": 1e-3, "seed": 0}, 0.0),
        ({"learning_rate": 1e-3, "seed": 1}, 0.3),
        ({"learning_rate": 1e-2, "seed": 0}, -1.0),
        ({"learning_rate": 1e-2, "seed": 1}, -1.2),
    ]
    folder = sweep(tmp_path_factory.mktemp("swept"), [(alike | point, shift) for point, shift in points])
    row = {"epoch": 100, "eval_samples": 5000, "test_nll_nats": 21.987, "versions": ", ".join(9 * ["package 0.10.2"])}
    (folder / "runs/0/evaluations.jsonl").write_text(json.dumps(row) + "\n")
    return folder, read(folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A result of the laboratory: two costs and two K of an estimator."""
    folder = tmp_path_factory.mktemp("measured")
    arguments = ["--problem=quadratic", "--estimators=reparam", "--cost_parameter=1,3", "--num_samples=1,4"]
    run(compare_estimators, *arguments, "--draws=400", "--rounds=3", f"--output={folder}")
    return folder, read(folder)


def test_the_table_says_what_the_rows_say(swept):
    folder, page = swept
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/result.json"))]
    header, *lines = page.tables["rows"]
    names = [text for text, _ in header]
    assert len(lines) == len(rows)
    for row in rows:
        [line] = [line for line in lines if line[0][0] == str(row["learning_rate"]) and line[1][0] == str(row["seed"])]
        for name, (text, value) in zip(names, line, strict=True):
            if isinstance(row[name], str):
                assert text == row[name]
            else:
                assert float(value) == row[name]
                assert float(text.replace("\N{MINUS SIGN}", "-")) == row[name]
    means = results.aggregate(rows)
    assert [line[0][0] for line in page.tables["summary"][1:]] == ["0.01", "0.001"]  # best first
    for mean, line in zip(means, page.tables["summary"][1:], strict=True):
        assert line[3][0] == f"{mean['test_nll_nats']:.2f} ± {mean['test_nll_nats_se']:.2f}"
        assert float(line[3][1]) == mean["test_nll_nats"]
    headline = (folder / "report.html").read_text().split('class="facts"')[1].split("</dl>")[0]
    assert f"(K = {rows[0]['eval_samples']})" in headline


def test_settings_that_cannot_be_told_from_the_best_are_named():
    """The difference's standard error is 0.5 nats, of a 3-4-5 triangle."""
    row = lambda nll, error: {"test_nll_nats": nll, "test_nll_nats_se": error}
    best, near, far = row(100.0, 0.3), row(100.9, 0.4), row(101.1, 0.4)
    assert results.level_with_best([best, near, far]) == [near]
    assert results.level_with_best([row(100.0, math.nan), row(100.0, math.nan)]) == []  # one seed each


def test_settings_of_one_finished_seed_are_not_judged(tmp_path):
    """Two seeds each: of the best, or of the worse, one diverged."""
    for alone, said in (
        (1e-3, "of one finished seed, so no difference is judged"),
        (1e-2, "of one finished seed, so not judged: learning_rate=0.01"),
    ):
        folder = sweep(tmp_path / str(alone), [({"learning_rate": 1e-3, "seed": seed}, 0.1 * seed) for seed in (0, 1)])
        for seed in (0, 1):
            write_run(folder / f"runs/1{seed}", Settings(learning_rate=1e-2, seed=seed), 1.0)
        path = folder / ("runs/1/result.json" if alone == 1e-3 else "runs/11/result.json")
        path.write_text(json.dumps(Settings(learning_rate=alone, seed=1).json() | {"status": "diverged", "step": 1}))
        assert f"best: learning_rate=0.001; {said}Settings" in read(folder).text.replace("\n", "").replace(
            " ResultsBo", ""
        )


def test_active_units_of_a_hierarchy_are_those_of_each_layer(tmp_path):
    """The mean of two seeds, and its standard error of the sum."""
    for seed, units in enumerate(((17, 5), (21, 3))):
        run = Settings(latent_dim=(100, 50), seed=seed)
        write_run(tmp_path / f"runs/{seed}", run)
        path = tmp_path / f"runs/{seed}/result.json"
        layers = {"active_units": sum(units), "active_units_by_layer": "+".join(map(str, units))}
        path.write_text(json.dumps(json.loads(path.read_text()) | layers))
    page, rows = read(tmp_path), [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert "| 23.0 ± 1.0 (19+4) |" in results.to_markdown(rows)
    assert page.tables["summary"][1][-1] == ("23.0 ± 1.0 (19+4)", "23.0")
    assert "active units23.0 ± 1.0 (19+4)" in page.text
    del rows[0]["active_units_by_layer"]  # of an earlier version
    assert "| 23.0 ± 1.0   |" in results.to_markdown(rows)
    assert results.units(rows[1:]) == rows[1]["active_units_by_layer"]


def test_a_toys_least_loss_is_a_number(tmp_path):
    """What diverged stands first in the file."""
    head = {"settings": {"toy": "coin", "steps": 10, "seeds": 1, "num_samples": 2}, "command": "python", "versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(head))
    for losses, said in (((math.nan, 0.25, 0.5), "0.250000 arm"), ((math.nan, math.nan, math.inf), "- ")):
        rows = [
            {"point": "p", "estimator": name, "family": "f", "final_loss": loss, "final_loss_stderr": math.nan}
            | {"first_variance": 1.0}
            for name, loss in zip(("nvil", "arm", "relax"), losses, strict=True)
        ]
        curves = [
            {"point": "p", "estimator": row["estimator"], "seed": 0, "step": step, "loss": row["final_loss"]}
            | {"variance": variance if row["estimator"] == "arm" else math.nan}
            for row in rows
            for step, variance in ((0, 4.0), (10, 2.0))
        ]
        (tmp_path / "results.csv").write_text(tables.to_csv(rows))
        (tmp_path / "curves.csv").write_text(tables.to_csv(curves))
        page = read(tmp_path)
        assert f"p: least loss{said}" in page.text
        assert page.charts[1]["data"][1]["y"] == [4, 2]


def test_what_is_no_number_is_sorted_last():
    values = [math.nan, 2.0, math.inf, math.nan, -1.0]
    assert [str(value) for value in sorted(values, key=results.least_first)] == ["-1.0", "2.0", "inf", "nan", "nan"]


def test_all_rows_are_ranked_by_one_figure(tmp_path):
    """The one with the better validation bound is the worse on the test set."""
    sets = ({"validation_size": 5}, {}), ({"validation_size": 5}, {"validation_size": 6}), ({}, {"eval_samples": 5000})
    words = "test set's -log p(x)", "validation bound", "test set's ELBO"
    for i, (points, word) in enumerate(zip(sets, words, strict=True)):
        folder = sweep(tmp_path / str(i), [(point, 0.0) for point in points])
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/result.json"))]
        for row, shift in zip(rows, (0.0, -9.0), strict=True):
            row |= {"test_nll_nats": row["test_nll_nats"] + shift, "test_elbo_nats": row["test_elbo_nats"] + shift}
        assert f"best first by the {word}" in results.heading(rows)
        by = (rows[1], rows[0]) if "-log" in word else rows
        names = results.varying(rows)
        assert [[r[n] for n in names] for r in results.aggregate(rows)] == [[r[n] for n in names] for r in by]
        for path, row in zip(sorted(folder.glob("runs/*/result.json")), rows, strict=True):
            path.write_text(json.dumps(row))
        assert ("best: " in read(folder).text) == (word == "validation bound")


def test_a_label_says_in_what_runs_differ():
    row = {"dataset": "digits", "estimator": "stl", "beta": 2.0}
    names = ([], ["estimator"], ["beta"], ["estimator", "beta"])
    assert [results.label(row, n) for n in names] == ["digits, stl", "stl", "beta=2.0", "stl, beta=2.0"]


def test_the_curves_are_the_rows(swept):
    folder, page = swept
    chart = page.charts[0]
    assert [choice["label"] for choice in chart["choices"]] == ["step", "examples", "seconds"]
    thick = [i for i, trace in enumerate(chart["data"]) if trace.get("showlegend", True)]
    assert [chart["data"][i]["name"] for i in thick] == ["learning_rate=0.01", "learning_rate=0.001"]
    metrics = [
        [json.loads(line) for line in (folder / f"runs/{i}/metrics.jsonl").read_text().splitlines()] for i in range(4)
    ]
    assert chart["data"][0]["y"] == [row["elbo_nats"] for row in metrics[2]]
    means = [(a["elbo_nats"] + b["elbo_nats"]) / 2 for a, b in zip(metrics[2], metrics[3], strict=True)]
    assert chart["data"][thick[0]]["y"] == pytest.approx(means)
    xs = [choice["x"][thick[0]] for choice in chart["choices"]]
    assert xs == [[23, 230, 2300], [1472, 14720, 147200], pytest.approx([0.01, 0.1, 1.0])]
    points = [trace for trace in page.charts[1]["data"] if trace.get("mode") == "markers"]
    assert points[1]["x"] == [4.5, 4.8]


def write_curve(folder, seed, elbo, status, **others):
    """A run that was evaluated as {epoch: ELBO} says."""
    write_run(folder, Settings(seed=seed, **others), finished=status == "done")
    rows = [
        {"epoch": epoch, "step": 23 * epoch, "examples": 1472 * epoch, "split": "test", "elbo_nats": value}
        for epoch, value in elbo.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    times = [{"epoch": row["epoch"], "step": row["step"], "train_seconds": seed + row["epoch"]} for row in rows]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    if status == "diverged":
        (folder / "result.json").write_text(
            json.dumps(Settings(seed=seed, **others).json() | {"status": status, "step": 24})
        )


def test_the_mean_is_of_equal_steps_and_of_finished_seeds(tmp_path):
    """Two seeds that were evaluated at other epochs, and one that diverged after the first."""
    write_curve(tmp_path / "runs/0", 0, {1: -50.0, 10: -30.0, 100: -20.0}, "done")
    write_curve(tmp_path / "runs/1", 1, {10: -32.0, 50: -25.0, 100: -24.0}, "done")
    write_curve(tmp_path / "runs/2", 2, {1: -40.0}, "diverged")
    chart = read(tmp_path).charts[0]
    *seeds, mean = chart["data"]
    assert [seed["y"] for seed in seeds] == [[-50, -30, -20], [-32, -25, -24], [-40]]
    assert mean["y"] == [-31, -22]
    assert "(mean of 2 of 3 seeds)" in mean["hovertemplate"]
    assert [choice["x"][-1] for choice in chart["choices"]] == [[230, 2300], [14720, 147200], [10.5, 100.5]]
    shutil.rmtree(tmp_path / "runs/0")
    shutil.rmtree(tmp_path / "runs/1")
    assert read(tmp_path).charts[0]["data"][-1]["y"] == [-40]


def test_a_curve_that_cannot_be_seen_is_named(tmp_path):
    for seed in range(4):
        curve = {epoch: -25.0 + 0.01 * epoch + seed for epoch in (1, 10, 100)}
        write_curve(tmp_path / f"runs/{seed}", 0, curve, "done", learning_rate=1e-3 * (1 + seed))
    write_curve(tmp_path / "runs/far", 0, {1: -1e9, 10: -1e9, 100: -1e9}, "done", learning_rate=1.0)
    write_curve(tmp_path / "runs/nan", 0, {1: math.nan}, "diverged", learning_rate=2.0)
    for seed, epochs in ((0, (1, 2)), (1, (3, 4))):
        curve = dict.fromkeys(epochs, -25.0)
        write_curve(tmp_path / f"runs/apart{seed}", seed, curve, "running", learning_rate=3.0)
    chart = read(tmp_path).charts[0]
    low, high = chart["layout"]["yaxis"]["range"]
    assert -40 < low < -25
    assert -22 < high < -10
    named = [trace["name"].removeprefix("learning_rate=") for trace in chart["data"] if trace["showlegend"]]
    unseen = ["1.0 (off scale)", "2.0 (not finite)", "3.0 (no step in common)"]
    assert sorted(named) == ["0.001", "0.002", "0.003", "0.004", *unseen]
    assert all(trace["y"] for trace in chart["data"])  # or plotly's legend leaves it out


def test_charts_are_what_plotly_knows(swept, measured):
    """Every property by plotly's own schema, with the names of colours replaced by colours."""
    from plotly.graph_objects import Figure

    def coloured(part):
        if isinstance(part, dict):
            return {key: coloured(value) for key, value in part.items()}
        if isinstance(part, list):
            return [coloured(value) for value in part]
        return "#123456" if isinstance(part, str) and part.startswith("@") else part

    for chart in swept[1].charts + measured[1].charts:
        Figure(coloured({"data": chart["data"], "layout": chart["layout"]}))
    with pytest.raises(ValueError, match="elephant"):
        Figure({"data": [{"type": "scatter", "elephant": 1}]})


def test_the_laboratorys_rows_are_on_the_page(measured):
    folder, page = measured
    with open(folder / "results.csv") as file:
        rows = list(csv.DictReader(file))
    header, *lines = page.tables["estimators phi"]
    column = [text for text, _ in header].index("variance")
    assert len(lines) == len(rows) == 4
    for row, line in zip(rows, lines, strict=True):
        assert float(line[column][1]) == float(row["phi_variance"])
        assert line[0][1] == row["cost_parameter"]
        assert line[1][0] == row["estimator"]
        for title, key in (("variance", "variance"), ("SNR", "snr"), ("cosine", "cosine")):
            interval = ", ".join(tables.number(float(row[f"phi_{key}_{end}"])) for end in ("low", "high"))
            text = line[[text for text, _ in header].index(title)][0].replace("\N{MINUS SIGN}", "-")
            assert text == f"{tables.number(float(row[f'phi_{key}']))} [{interval}]"
    titles = [chart["layout"]["yaxis"].get("title", {}).get("text") for chart in page.charts]
    assert titles == ["phi: variance", None, "phi: signal-to-noise ratio", "phi: variance"]
    assert json.loads((folder / "config.json").read_text())["command"].split()[0] in page.text
    assert "phi: least variance × FLOPreparam" in page.text


def test_every_interval_is_of_the_confidence_asked_for():
    """That which was written, and of older results 1.96 standard errors for 95 %; of a bias of 10 +- 1 %."""
    row = {"problem": "x", "estimator": "reparam", "num_samples": 1, "phi_bias": 0.1, "phi_bias_stderr": 0.01}
    row |= {
        "phi_biased": False,
        "phi_max_abs_z": 1.0,
        "phi_critical_z": 4.0,
        "declared_biased": False,
        "truth": "exact",
    }
    for confidence, errors in ((0.95, 1.96), (0.6827, 1.0)):
        [trace] = report_charts.bias([row], "phi", confidence)["data"]
        assert trace["error_x"]["array"] == pytest.approx([errors], abs=1e-3)
        ends = {"phi_bias_low": 0.1 - 0.03 * errors, "phi_bias_high": 0.1 + 0.03 * errors}
        [trace] = report_charts.bias([row | ends], "phi", confidence)["data"]
        assert trace["error_x"]["array"] == pytest.approx([3 * errors], abs=1e-3)
        axis = plots_gradients.bias_forest([row | ends | {"label": "reparam"}], ["phi"]).axes[0]
        [segments] = [line.get_segments() for line in axis.collections]
        assert segments[0][:, 0] == pytest.approx([10 - 3 * errors, 10 + 3 * errors], abs=1e-3)


def test_rows_without_a_figure_have_no_chart(measured, tmp_path):
    """Nothing varies, or nothing is known of the bias: the table says so, and no chart is empty."""
    folder = tmp_path / "still"
    shutil.copytree(measured[0], folder)
    with open(folder / "results.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {"phi_variance": 0.0, "phi_snr": "", "phi_bias": ""}
    (folder / "results.csv").write_text(tables.to_csv(rows))
    page = read(folder)
    assert page.charts == []
    assert len(page.tables["estimators phi"]) == 1 + len(rows)


def test_it_needs_nothing_else_and_is_the_same_again(swept):
    folder, page = swept
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    text = (folder / "report.html").read_bytes()
    assert len(text) < 10_000_000
    assert b"@import" not in text.split(b"</style>")[0]
    assert b"url(" not in text.split(b"</style>")[0]
    read(folder)
    assert (folder / "report.html").read_bytes() == text


def test_text_is_never_markup(tmp_path):
    bad = "npz:/tmp/<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>%{y}</title>"
    folder = tmp_path / "<b onclick=alert(3)>&amp;"
    sweep(folder, [({"dataset": bad}, 0.0), ({"dataset": "digits"}, 1.0)])
    page = read(folder)
    assert page.alerts == 0
    assert not [load for load in page.loads if not load.startswith(("#", "data:"))]
    assert len(page.scripts) == 3  # charts, plotly, ours
    assert bad in page.text
    assert folder.name in page.text
    assert "<script>alert" not in (folder / "report.html").read_text()


def test_a_page_of_many_pictures_stays_small(tmp_path):
    large = PNG + b"\0" * 1_500_000
    folder = sweep(tmp_path, [({"latent_dim": (n,)}, float(n)) for n in (1, 2, 3, 4)], picture=large)
    page = read(folder)
    assert (folder / "report.html").stat().st_size < 10_000_000
    assert sum(load.startswith("data:image") for load in page.loads) == 2
    assert "Not shown, to keep the file small" in page.text
    assert str(folder / "runs/3/figures") in page.text


def test_a_page_of_many_curves_stays_small(tmp_path, monkeypatch):
    """Places stand there once, numbers have seven digits, and where that is not enough, points are left out."""
    from plotly import offline

    monkeypatch.setattr(offline, "get_plotlyjs", lambda: "")
    curve = {epoch: -100 - 400 * math.exp(-epoch / 20) for epoch in range(1, 201)}
    for i in range(30):
        write_curve(tmp_path / f"runs/{i:02}", i % 3, curve, "done", learning_rate=1e-3 * (1 + i // 3))
    whole = read(tmp_path)
    chart = whole.charts[0]
    assert not any("x" in trace for trace in chart["data"])
    assert [trace["y"] for trace in chart["data"]] == 40 * [[float(f"{value:.7g}") for value in curve.values()]]
    assert len(whole.scripts[0]) < 40 * 200 * 36  # bytes of a point: y, and x as steps, examples and seconds
    assert "evaluations is drawn" not in whole.text
    limit = (tmp_path / "report.html").stat().st_size - 3 * len(whole.scripts[0]) // 5
    monkeypatch.setattr(report_page, "MAX_BYTES", limit)
    small = read(tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= limit
    assert "One of 4 evaluations is drawn, to keep the file small." in small.text
    for trace, places in zip(small.charts[0]["data"], small.charts[0]["choices"][0]["x"], strict=True):
        assert trace["y"] == chart["data"][0]["y"][3::4]
        assert places == [23 * epoch for epoch in range(4, 201, 4)]
    assert small.tables == whole.tables


def test_same_settings_of_two_workdirs_stay_apart(tmp_path, capsys):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        write_run(tmp_path / name, Settings(), shift)
    run(report, f"--workdir={tmp_path}/a,{tmp_path}/b", f"--output={tmp_path}/both.html")
    assert "2 runs" in capsys.readouterr().out
    page = Page((tmp_path / "both.html").read_text())
    assert [line[0][0] for line in page.tables["summary"][1:]] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_other_data_have_no_common_best(tmp_path):
    page = read(sweep(tmp_path, [({"binarization": "static"}, 0.0), ({"binarization": "dynamic"}, 1.0)]))
    assert "best:" not in page.text
    assert "dynamic, static binarization" in page.text


def test_evaluations_of_later_are_shown(tmp_path):
    write_run(tmp_path, Settings())
    row = {"epoch": 100, "eval_samples": 5000, "test_nll_nats": 21.987, "test_elbo_nats": -23.1}
    code = {"git_commit": "0123456789" * 4 + "+", "versions": "python 3.11.7, jax 0.10.2"}
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (row | code, row)))
    header, now, before = [[text for text, _ in line] for line in read(tmp_path).tables["evaluations"]]
    assert header == ["seed", "epoch", "K", "-log p(x)", "ELBO", "commit", "versions"]
    assert now == ["0", "100", "5000", "21.99", "\N{MINUS SIGN}23.10", "0123456+", code["versions"]]
    assert before[-2:] == ["-", "-"]  # of a version that did not keep them


def test_runs_that_are_not_finished_are_said(tmp_path):
    sweep(tmp_path, [({"seed": 0}, 0.0)])
    write_run(tmp_path / "runs/9", Settings(seed=1), finished=False)
    page = read(tmp_path)
    assert "1 of 2 runs not finished" in page.text
    assert len(page.tables["summary"]) == 2
    shutil.rmtree(tmp_path / "runs/0")
    assert "summary" not in read(tmp_path).tables


def test_the_commands_make_the_same_runs(tmp_path):
    """One command for a grid; one for each grid of what is none. Parsed again, they are the settings."""
    grid = [Settings(seed=s, learn_prior=p, hidden=h) for s in (0, 1) for p in (False, True) for h in ((), (8, 4))]
    for wanted, number in ((grid, 1), (grid[:3], 2)):
        folder = tmp_path / str(number)
        sweep(folder, [(dataclasses.asdict(one), 0.0) for one in wanted], finished=False)
        lines = report_contents.commands(report_contents.read([folder]).runs)
        assert len(lines) == number
        found = []
        for line in lines:
            values = flags.FlagValues()
            settings.define_flags(values)
            values(line.split()[2:])
            found += settings.from_flags(values)
        assert set(found) == set(wanted)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --workdir"),
        (["--workdir="], "give --workdir"),
        (["--workdir=nowhere"], "--workdir=nowhere holds no run"),
        (["--workdir=swept", "--output=swept"], "is a folder"),
        (["--workdir=empty"], "holds no run"),
        (["--workdir=broken"], "not valid JSON"),
        (["--workdir=rowless"], "no rows in results.csv"),
        (["--workdir=swept", "--output=swept/runs/0/config.json/x.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep(tmp_path / "swept", [({}, 0.0)])
    for name, text in (("empty", ""), ("broken", "{"), ("rowless", '{"command": "x"}')):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.json").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        run(report, *arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.slow
def test_a_browser_reads_it(swept, measured):
    """Headless Chromium: no console error, sorting sorts, hovering shows a label, buttons change the axis, the page is
    no wider than a phone, dark is dark, and paper is light."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        names = "chromium", "google-chrome", "chromium-browser", playwright.chromium.executable_path
        executable = next(filter(None, map(shutil.which, names)), None)
        if not executable:
            pytest.skip("there is no Chromium: python -m playwright install chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for folder, _ in (swept, measured):
            for width, scheme in ((390, "light"), (1200, "dark")):
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page, problems, requests = context.new_page(), [], []
                page.on("console", lambda message, into=problems: into.append(message.text))
                page.on("pageerror", lambda error, into=problems: into.append(str(error)))
                page.on("request", lambda request, into=requests: into.append(request.url))
                page.goto((folder / "report.html").as_uri())
                page.wait_for_selector(".plot .main-svg")
                assert page.evaluate("document.documentElement.scrollWidth") == width
                cut = page.locator(".pair + .scroll").evaluate_all(
                    "all => all.some(s => s.scrollWidth > s.clientWidth)"
                )
                assert not cut or width < 1200
                assert page.locator(".plot").count() == page.locator(".plot .cartesianlayer").count()
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
                _sorts(page)
                _hovers(page)
                _chooses(page)
                page.emulate_media(media="print")
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
                assert page.pdf(format="A4").startswith(b"%PDF")
                page.set_viewport_size({"width": 720, "height": 900})  # about A4
                page.evaluate("dispatchEvent(new Event('beforeprint'))")
                page.wait_for_function("document.documentElement.scrollWidth == 720", timeout=10_000)
                assert problems == []
                assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
                context.close()
        browser.close()


def _sorts(page):
    table = page.locator("table.sortable").first
    column = table.locator("th.number").last
    place = int(column.evaluate("head => head.cellIndex"))
    for order in (1, -1):
        column.locator("button").click()
        values = table.evaluate("(t, i) => [...t.tBodies[0].rows].map(r => Number(r.cells[i].dataset.value))", place)
        assert values == sorted(values, reverse=order == -1)
        assert len(values) > 1
    assert column.get_attribute("aria-sort") == "descending"


def _hovers(page):
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator("path.point").first.bounding_box()
    page.mouse.move(box["x"] - 30, box["y"] - 30)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    label = plot.locator(".hoverlayer .hovertext")
    label.first.wait_for(timeout=5000)
    assert any(word in label.first.text_content() for word in ("nats", "variance"))


def _chooses(page):
    chart = page.locator(".chart").first
    before = chart.locator(".xtitle").text_content()
    chart.locator(".choices button").last.click()
    page.wait_for_function("text => document.querySelector('.chart .xtitle').textContent !== text", arg=before)
    assert chart.locator(".choices button").last.get_attribute("aria-pressed") == "true"
