"""The sections about trained runs show the numbers that were written."""

import html
import json
import math
import re
import shlex
import shutil

import numpy as np
import pytest
from absl import flags

from experiments.common import results
from experiments.common.settings import Settings
from experiments.evaluate import __main__ as evaluate
from tests.helpers.report_pages import make_page
from tests.helpers.written_workdirs import (
    Written,
    change_result,
    result_rows,
    write_program,
    write_rows,
    write_run,
    write_sweep,
    write_workdir,
)


def test_the_tables_show_the_results_in_runs_json(swept):
    folder, page = swept
    rows = result_rows(folder)
    header, *lines = page.tables["rows"]
    keys = {figure.title: key for key, figure in results.FIGURES.items()} | {"-log p(x) (K = 500)": "test_nll_nats"}
    names = [keys.get(text, text) for text, _ in header]
    assert names[:4] == ["learning_rate", "seed", "validation_elbo_nats", "test_nll_nats"]
    assert "The same in all lines: status: done; step: 2300." in page.text
    assert len(lines) == len(rows)
    for row in rows:
        [line] = [line for line in lines if line[0][0] == str(row["learning_rate"]) and line[1][0] == str(row["seed"])]
        for name, (text, value) in zip(names, line, strict=True):
            assert float(value) == row[name]
            assert text.replace("\N{MINUS SIGN}", "-") == results.cell(row, name)
    means = results.aggregate(rows)
    assert [line[0][0] for line in page.tables["summary"][1:]] == ["0.01", "0.001"]  # best first
    for mean, line in zip(means, page.tables["summary"][1:], strict=True):
        assert line[3][0] == f"{mean['test_nll_nats']:.2f} ± {mean['test_nll_nats_se']:.2f}"
        assert float(line[3][1]) == mean["test_nll_nats"]
    headline = (folder / "report.html").read_text().split('class="facts"')[1].split("</dl>")[0]
    assert f"(K = {rows[0]['eval_samples']})" in headline
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</small>", headline))
    elbo = results.cell(means[0], "test_elbo_nats").replace("-", "\N{MINUS SIGN}")
    assert (facts["ELBO"], facts["bits/dim"].split("<small>")[1]) == (f"{elbo} <small>nats", "")
    assert "learning_rate" not in [line[0][0] for line in page.tables["alike"]]


def test_the_page_begins_with_the_verdict(swept):
    folder, page = swept
    text = (folder / "report.html").read_text()
    # Without noise between paired seeds the mean difference is (1.0 + 1.5) / 2 and its error |1.0 - 1.5| / 2.
    answer = "learning_rate=0.01 has the lowest mean test -log p(x), and is not told apart from learning_rate=0.001;"
    assert f'<p class="verdict">{answer}' in text
    assert page.tables["pairs"][1][2][0] == "1.25"
    assert page.tables["pairs"][1][3][0].startswith("-1.93 to ")
    assert text.index('class="verdict"') < text.index('class="facts"') < text.index('id="verdict"')


def test_without_a_comparison_the_page_names_the_first_setting_and_says_how_to_compare(tmp_path):
    """Two settings vary and there is no validation split, so a choice among the settings would be by the test set."""
    rates, samples, seeds = (0.001, 0.01), (1, 2), (0, 1)
    runs = [
        ({"estimator": "stl", "learning_rate": rate, "num_samples": k, "seed": seed}, 9.0 * ((rate, k) != (0.01, 1)))
        for rate in rates
        for k in samples
        for seed in seeds
    ]
    make_page(write_sweep(tmp_path, runs))
    text = (tmp_path / "report.html").read_text()
    [sentence] = re.findall(r'<p class="best">(.*?)</p>', text)
    first, _, advice = sentence.partition(". ")
    assert first == "num_samples=1, learning_rate=0.01 is first by the test set&#x27;s -log p(x)"
    assert "--compare" in advice
    assert "--validation_size=200" in advice
    assert 'class="verdict"' not in text


def test_active_units_are_shown_for_each_layer(tmp_path):
    """A cell shows the mean total of two seeds with its standard error, and in parentheses the mean of each layer."""
    write_sweep(tmp_path, [({"latent_dim": (100, 50), "seed": seed}, 0.0) for seed in (0, 1)])
    for seed, units in enumerate(((17, 5), (21, 3))):
        layers = {"active_units": sum(units), "active_units_by_layer": "+".join(map(str, units))}
        change_result(tmp_path / "programs/0", seed, **layers)
    page = make_page(tmp_path)
    rows = result_rows(tmp_path)
    assert "| 23.0 ± 1.0 (19+4) |" in results.to_markdown(rows)
    assert page.tables["summary"][1][-1] == ("23.0 ± 1.0 (19+4)", "23.0")
    assert "active units23.0 ± 1.0 (19+4)" in page.text
    del rows[0]["active_units_by_layer"]  # layers are shown only if all seeds have them
    assert "| 23.0 ± 1.0   |" in results.to_markdown(rows)
    assert results.units(rows[1:]) == rows[1]["active_units_by_layer"]


@pytest.mark.parametrize(
    ("settings", "figure", "first", "is_comparable"),
    [
        (({"validation_size": 5}, {"validation_size": 6}), "validation bound", 0, True),
        (({"validation_size": 5}, {}), "test set's -log p(x)", 1, False),
        (({}, {"eval_samples": 5000}), "test set's ELBO", 0, False),
    ],
)
def test_rows_are_ranked_by_a_figure_that_all_of_them_have(settings, figure, first, is_comparable, tmp_path):
    """The first row has the better validation bound and ELBO, and the second row has the better -log p(x)."""
    write_sweep(tmp_path, [(one, 0.0) for one in settings])
    second = result_rows(tmp_path)[1]
    worse = {name: second[name] - 9 for name in ("test_nll_nats", "test_elbo_nats") if name in second}
    if "validation_elbo_nats" in second:
        worse["validation_elbo_nats"] = second["validation_elbo_nats"] - 9
    change_result(tmp_path / "programs/1", 0, **worse)
    rows = result_rows(tmp_path)

    [name] = results.varying(rows)
    assert results.aggregate(rows)[0][name] == rows[first][name]
    assert f"best first by the {figure}" in results.heading(rows)
    assert (f" is first by the {figure}" in make_page(tmp_path).text) == is_comparable


def test_the_curves_show_the_rows_of_metrics_jsonl(swept):
    folder, page = swept
    chart = page.charts[0]
    assert [choice["label"] for choice in chart["choices"]] == ["step", "examples", "seconds"]
    thick = [i for i, trace in enumerate(chart["data"]) if trace.get("showlegend", True)]
    assert [chart["data"][i]["name"] for i in thick] == ["learning_rate=0.01", "learning_rate=0.001"]
    rows = [json.loads(line) for line in (folder / "programs/0/metrics.jsonl").read_text().splitlines()]
    metrics = [[row for row in rows if row["run"] == i] for i in range(4)]
    assert chart["data"][0]["y"] == [row["elbo_nats"] for row in metrics[2]]
    means = [(a["elbo_nats"] + b["elbo_nats"]) / 2 for a, b in zip(metrics[2], metrics[3], strict=True)]
    assert chart["data"][thick[0]]["y"] == pytest.approx(means)
    xs = [choice["x"][thick[0]] for choice in chart["choices"]]
    assert xs == [[23, 230, 2300], [1472, 14720, 147200], pytest.approx([0.01, 0.1, 1.0])]
    points = [trace for trace in page.charts[1]["data"] if trace.get("mode") == "markers"]
    assert points[1]["x"] == [4.5, 4.8]
    elbos = [[row["test_elbo_nats"], row["seed"]] for row in result_rows(folder) if row["learning_rate"] == 0.001]
    np.testing.assert_allclose(points[1]["customdata"], elbos, rtol=1e-6)


def test_the_mean_is_over_finished_seeds_at_the_steps_that_all_of_them_have(tmp_path):
    """Two seeds were evaluated at different epochs by two commands, and one diverged after the first epoch."""
    write_program(tmp_path / "programs/0", [Written(Settings(seed=0), elbo={1: -50.0, 10: -30.0, 100: -20.0})])
    write_program(tmp_path / "programs/1", [Written(Settings(seed=1), elbo={10: -32.0, 50: -25.0, 100: -24.0})])
    write_program(tmp_path / "programs/2", [Written(Settings(seed=2), status="diverged", elbo={1: -40.0})])
    write_rows(
        tmp_path / "programs/1/timing.jsonl",
        [{"epoch": epoch, "step": 23 * epoch, "train_seconds": 0.03 * epoch} for epoch in (10, 50, 100)],
    )
    chart = make_page(tmp_path).charts[0]
    *seeds, mean = chart["data"]
    assert [seed["y"] for seed in seeds] == [[-50, -30, -20], [-32, -25, -24], [-40]]
    assert mean["y"] == [-31, -22]
    assert "(mean of 2 of 3 seeds)" in mean["hovertemplate"]
    assert [choice["x"][-1] for choice in chart["choices"]] == [
        [230, 2300],
        [14720, 147200],
        [pytest.approx(0.2), pytest.approx(2.0)],
    ]
    shutil.rmtree(tmp_path / "programs/0")
    shutil.rmtree(tmp_path / "programs/1")
    assert make_page(tmp_path).charts[0]["data"][-1]["y"] == [-40]


def test_the_legend_says_why_a_curve_cannot_be_seen(tmp_path):
    runs = []
    for i in range(4):
        curve = {epoch: -25.0 + 0.01 * epoch + i for epoch in (1, 10, 100)}
        runs.append(Written(Settings(learning_rate=1e-3 * (1 + i)), elbo=curve))
    runs.append(Written(Settings(learning_rate=1.0), elbo={1: -1e9, 10: -1e9, 100: -1e9}))
    runs.append(Written(Settings(learning_rate=2.0), status="diverged", elbo={1: math.nan}))
    for seed, epochs in ((0, (1, 2)), (1, (3, 4))):
        curve = dict.fromkeys(epochs, -25.0)
        runs.append(Written(Settings(learning_rate=3.0, seed=seed), status=None, elbo=curve))
    write_workdir(tmp_path, runs)
    chart = make_page(tmp_path).charts[0]
    low, high = chart["layout"]["yaxis"]["range"]
    assert -40 < low < -25
    assert -22 < high < -10
    named = [trace["name"].removeprefix("learning_rate=") for trace in chart["data"] if trace["showlegend"]]
    unseen = ["1.0 (off scale)", "2.0 (not finite)", "3.0 (no step in common)"]
    assert sorted(named) == ["0.001", "0.002", "0.003", "0.004", *unseen]
    assert all(trace["y"] for trace in chart["data"])  # the legend of plotly leaves out traces without points


def test_no_setting_is_called_first_among_runs_on_different_pixels_or_with_different_likelihoods(tmp_path):
    points = {"binarization": ("static", "dynamic"), "likelihood": ("gaussian", "discretized_logistic")}
    pages = [
        make_page(write_sweep(tmp_path / name, [({name: value}, 0.0) for value in values]))
        for name, values in points.items()
    ]
    assert not any("is first by" in page.text for page in pages)
    assert "dynamic, static binarization" in pages[0].text


def test_the_page_has_the_command_that_draws_the_pictures_that_are_missing(tmp_path):
    folder = write_sweep(tmp_path / "a b", [({"seed": seed}, 0.0) for seed in (0, 1)])
    make_page(folder)
    assert "There are no pictures" not in (folder / "report.html").read_text()
    shutil.rmtree(folder / "programs/0/figures/run1_seed=1")
    make_page(folder)
    [command] = re.findall(
        "There are no pictures of the other runs. <code>(.*?)</code>", (folder / "report.html").read_text()
    )
    python, m, module, *arguments = shlex.split(html.unescape(command))
    assert (python, m, module) == ("python", "-m", "experiments.evaluate")
    values = flags.FlagValues()
    evaluate.define_flags(values)
    values(["", *arguments])
    assert (values.workdir, values.figures) == (str(folder / "programs/0"), True)


def test_nothing_draws_pictures_of_a_run_that_is_not_finished(tmp_path):
    write_workdir(tmp_path, [Written(Settings(), status=None)])
    make_page(tmp_path)
    assert "There are no pictures.</p>" in (tmp_path / "report.html").read_text()


def test_pictures_of_different_runs_stand_together_by_their_kind(tmp_path):
    folder = write_sweep(tmp_path, [({"objective": "elbo", "estimator": name}, 0.0) for name in ("reparam", "stl")])
    make_page(folder)
    [group] = re.findall("<div class='pictures reconstructions'>(.*?)</div>", (folder / "report.html").read_text())
    assert re.findall("<figcaption>(.*?)</figcaption>", group) == ["reparam, seed 0", "stl, seed 0"]


@pytest.mark.parametrize(("setting", "other", "is_same"), [("estimator", "stl", True), ("latent_dim", (4,), False)])
def test_the_page_says_that_runs_share_noise_only_where_they_do(setting, other, is_same, tmp_path):
    folder = write_sweep(tmp_path, [({"objective": "elbo"}, 0.0), ({"objective": "elbo", setting: other}, 1.0)])
    assert ("the same noise" in make_page(folder).text) == is_same


def test_later_evaluations_are_shown_with_the_version_of_the_code(tmp_path):
    write_run(tmp_path, Settings())
    row = {"run": 0, "epoch": 100, "eval_samples": 5000, "test_nll_nats": 21.987, "test_elbo_nats": -23.1}
    code = {"git_commit": "0123456789" * 4 + "+", "versions": "python 3.11.7, jax 0.10.2"}
    write_rows(tmp_path / "evaluations.jsonl", [row | code, row])
    page = make_page(tmp_path)
    header, now, before = [[text for text, _ in line] for line in page.tables["evaluations"]]
    assert header == ["-log p(x)", "ELBO", "commit", "versions"]
    assert now == ["21.99", "\N{MINUS SIGN}23.10", "0123456+", code["versions"]]
    assert before[-2:] == ["-", "-"]  # a row without provenance
    assert "The same in all lines: seed: 0; epoch: 100; K: 5000." in page.text


def test_the_gradient_along_training_has_a_line_for_each_estimator(tmp_path):
    write_sweep(tmp_path, [({"objective": "elbo", "seed": seed}, 0.0) for seed in (0, 1)])
    path = tmp_path / "programs/0/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        shift = 10.0 ** row["run"]
        row |= {"gradient/reparam/encoder/variance": shift, "gradient/stl/encoder/variance": row["step"] * shift}
        row |= {"gradient/stl/encoder/bias": 0.1 * row["run"], "gradient/stl/encoder/bias_stderr": 0.03}
    write_rows(path, rows)
    page = make_page(tmp_path)
    assert "Gradient along training" in page.text
    variance, bias = page.charts[1:3]
    assert [trace["name"] for trace in variance["data"]] == ["Reparameterization", "STL"]
    assert variance["data"][1]["x"] == [23, 230, 2300]
    assert variance["data"][1]["y"] == [pytest.approx(5.5 * step) for step in (23, 230, 2300)]
    assert bias["data"][0]["y"] == [pytest.approx(5.0)] * 3  # the mean of 0 and 10 %
    assert bias["data"][0]["error_y"]["array"] == [pytest.approx(100 * 2 * 0.03 / 2**0.5, rel=1e-3)] * 3


def test_the_choices_of_auto_are_shares_of_the_steps_between_evaluations(tmp_path):
    write_run(tmp_path, Settings(objective="elbo", estimator="auto"))
    path = tmp_path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, steps, error in zip(rows, (23, 92, 92), (0.0, 2.0, 1.0), strict=True):
        row |= {"auto/reparam/steps": steps, "auto/stl/steps": row["step"] - steps, "auto/stl/error": error}
    write_rows(path, rows)
    page = make_page(tmp_path)
    shares, errors = page.charts[1:3]
    assert [trace["name"] for trace in shares["data"]] == ["Reparameterization", "STL"]
    assert shares["data"][0]["y"] == [100, pytest.approx(100 * 69 / 207, rel=1e-4), 0]
    assert shares["data"][1]["y"] == [0, pytest.approx(100 * 138 / 207, rel=1e-4), 100]
    assert (errors["data"][0]["x"], errors["data"][0]["y"]) == ([230, 2300], [2, 1])  # 0 before the first measurement
