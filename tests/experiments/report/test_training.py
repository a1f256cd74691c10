"""The sections about trained runs show the numbers that were written."""

import json
import math
import re
import shutil

import pytest

from experiments.common import results
from experiments.common.settings import Settings
from tests.helpers.report_pages import make_page
from tests.helpers.written_workdirs import write_curve, write_run, write_sweep


def test_the_tables_show_the_numbers_of_the_result_files(swept):
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


@pytest.mark.parametrize(
    ("diverged", "remark"),
    [
        (0.001, "it has only one finished seed, so it cannot be compared"),
        (0.01, "not compared, with only one finished seed: learning_rate=0.01"),
    ],
)
def test_settings_with_one_finished_seed_are_not_compared(diverged, remark, tmp_path):
    """There are two settings with two seeds each. One seed of the better or of the worse setting diverged."""
    for rate, shift in ((0.001, 0.0), (0.01, 1.0)):
        for seed in (0, 1):
            write_run(tmp_path / f"runs/{rate}-{seed}", Settings(learning_rate=rate, seed=seed), shift)
    row = Settings(learning_rate=diverged, seed=1).json() | {"status": "diverged", "step": 1}
    (tmp_path / f"runs/{diverged}-1/result.json").write_text(json.dumps(row))
    make_page(tmp_path)
    [sentence] = re.findall(r'<p class="best">(.*?)</p>', (tmp_path / "report.html").read_text())
    assert sentence == f"best: learning_rate=0.001; {remark}"


def test_active_units_are_shown_for_each_layer(tmp_path):
    """A cell shows the mean total of two seeds with its standard error, and in parentheses the mean of each layer."""
    for seed, units in enumerate(((17, 5), (21, 3))):
        run = Settings(latent_dim=(100, 50), seed=seed)
        write_run(tmp_path / f"runs/{seed}", run)
        path = tmp_path / f"runs/{seed}/result.json"
        layers = {"active_units": sum(units), "active_units_by_layer": "+".join(map(str, units))}
        path.write_text(json.dumps(json.loads(path.read_text()) | layers))
    page = make_page(tmp_path)
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert "| 23.0 ± 1.0 (19+4) |" in results.to_markdown(rows)
    assert page.tables["summary"][1][-1] == ("23.0 ± 1.0 (19+4)", "23.0")
    assert "active units23.0 ± 1.0 (19+4)" in page.text
    del rows[0]["active_units_by_layer"]  # layers are shown only if all seeds have them
    assert "| 23.0 ± 1.0   |" in results.to_markdown(rows)
    assert results.units(rows[1:]) == rows[1]["active_units_by_layer"]


@pytest.mark.parametrize(
    ("settings", "figure", "first", "has_best"),
    [
        (({"validation_size": 5}, {"validation_size": 6}), "validation bound", 0, True),
        (({"validation_size": 5}, {}), "test set's -log p(x)", 1, False),
        (({}, {"eval_samples": 5000}), "test set's ELBO", 0, False),
    ],
)
def test_rows_are_ranked_by_a_figure_that_all_of_them_have(settings, figure, first, has_best, tmp_path):
    """The first row has the better validation bound and ELBO, and the second row has the better -log p(x)."""
    write_sweep(tmp_path, [(one, 0.0) for one in settings])
    files = sorted(tmp_path.glob("runs/*/result.json"))
    rows = [json.loads(path.read_text()) for path in files]
    rows[1] |= {
        name: rows[1][name] - 9
        for name in ("test_nll_nats", "test_elbo_nats", "validation_elbo_nats")
        if name in rows[1]
    }
    for path, row in zip(files, rows, strict=True):
        path.write_text(json.dumps(row))

    [name] = results.varying(rows)
    assert results.aggregate(rows)[0][name] == rows[first][name]
    assert f"best first by the {figure}" in results.heading(rows)
    assert ("best: " in make_page(tmp_path).text) == has_best


def test_the_curves_show_the_rows_of_metrics_jsonl(swept):
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


def test_the_mean_is_over_finished_seeds_at_the_steps_that_all_of_them_have(tmp_path):
    """Two seeds were evaluated at different epochs, and one diverged after the first epoch."""
    write_curve(tmp_path / "runs/0", 0, {1: -50.0, 10: -30.0, 100: -20.0}, "done")
    write_curve(tmp_path / "runs/1", 1, {10: -32.0, 50: -25.0, 100: -24.0}, "done")
    write_curve(tmp_path / "runs/2", 2, {1: -40.0}, "diverged")
    chart = make_page(tmp_path).charts[0]
    *seeds, mean = chart["data"]
    assert [seed["y"] for seed in seeds] == [[-50, -30, -20], [-32, -25, -24], [-40]]
    assert mean["y"] == [-31, -22]
    assert "(mean of 2 of 3 seeds)" in mean["hovertemplate"]
    assert [choice["x"][-1] for choice in chart["choices"]] == [[230, 2300], [14720, 147200], [10.5, 100.5]]
    shutil.rmtree(tmp_path / "runs/0")
    shutil.rmtree(tmp_path / "runs/1")
    assert make_page(tmp_path).charts[0]["data"][-1]["y"] == [-40]


def test_the_legend_says_why_a_curve_cannot_be_seen(tmp_path):
    for seed in range(4):
        curve = {epoch: -25.0 + 0.01 * epoch + seed for epoch in (1, 10, 100)}
        write_curve(tmp_path / f"runs/{seed}", 0, curve, "done", learning_rate=1e-3 * (1 + seed))
    write_curve(tmp_path / "runs/far", 0, {1: -1e9, 10: -1e9, 100: -1e9}, "done", learning_rate=1.0)
    write_curve(tmp_path / "runs/nan", 0, {1: math.nan}, "diverged", learning_rate=2.0)
    for seed, epochs in ((0, (1, 2)), (1, (3, 4))):
        curve = dict.fromkeys(epochs, -25.0)
        write_curve(tmp_path / f"runs/apart{seed}", seed, curve, "running", learning_rate=3.0)
    chart = make_page(tmp_path).charts[0]
    low, high = chart["layout"]["yaxis"]["range"]
    assert -40 < low < -25
    assert -22 < high < -10
    named = [trace["name"].removeprefix("learning_rate=") for trace in chart["data"] if trace["showlegend"]]
    unseen = ["1.0 (off scale)", "2.0 (not finite)", "3.0 (no step in common)"]
    assert sorted(named) == ["0.001", "0.002", "0.003", "0.004", *unseen]
    assert all(trace["y"] for trace in chart["data"])  # the legend of plotly leaves out traces without points


def test_no_setting_is_called_best_among_runs_on_different_pixels(tmp_path):
    page = make_page(write_sweep(tmp_path, [({"binarization": "static"}, 0.0), ({"binarization": "dynamic"}, 1.0)]))
    assert "best:" not in page.text
    assert "dynamic, static binarization" in page.text


def test_later_evaluations_are_shown_with_the_version_of_the_code(tmp_path):
    write_run(tmp_path, Settings())
    row = {"epoch": 100, "eval_samples": 5000, "test_nll_nats": 21.987, "test_elbo_nats": -23.1}
    code = {"git_commit": "0123456789" * 4 + "+", "versions": "python 3.11.7, jax 0.10.2"}
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (row | code, row)))
    header, now, before = [[text for text, _ in line] for line in make_page(tmp_path).tables["evaluations"]]
    assert header == ["seed", "epoch", "K", "-log p(x)", "ELBO", "commit", "versions"]
    assert now == ["0", "100", "5000", "21.99", "\N{MINUS SIGN}23.10", "0123456+", code["versions"]]
    assert before[-2:] == ["-", "-"]  # a row without provenance
