"""The section about the laboratory shows the rows and intervals that were written."""

import csv
import json
import shutil

import pytest

from experiments.common import plots, tables
from experiments.report import charts
from tests.helpers.report_pages import make_page


def copy_with(measured, folder, changes):
    """Copies a result of the laboratory, and changes each row of its results.csv; returns the rows."""
    shutil.copytree(measured, folder)
    with open(folder / "results.csv") as file:
        rows = [row | changes(row) for row in csv.DictReader(file)]
    (folder / "results.csv").write_text(tables.to_csv(rows))
    return rows


def test_the_table_and_the_charts_show_the_rows(measured):
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


def test_a_bias_is_drawn_with_the_interval_that_was_written():
    """A bias of 10 % ± 3 % is drawn with this interval by both renderers."""
    row = {"problem": "x", "estimator": "reparam", "num_samples": 1, "declared_biased": False, "truth": "exact"}
    row |= {"phi_bias": 0.1, "phi_bias_stderr": 0.01, "phi_bias_low": 0.07, "phi_bias_high": 0.13}
    row |= {"phi_biased": False, "phi_max_abs_z": 1.0, "phi_critical_z": 4.0}

    [trace] = charts.bias([row], "phi")["data"]
    axis = plots.bias_forest([row], ["phi"], confidence=0.95).axes[0]

    assert trace["error_x"]["array"] == pytest.approx([3.0], abs=1e-3)
    [segments] = [line.get_segments() for line in axis.collections]
    assert segments[0][:, 0] == pytest.approx([7.0, 13.0], abs=1e-3)


def test_a_chart_without_any_number_is_left_out(measured, tmp_path):
    """All variances are zero, and no bias is known. The table still has every row."""
    rows = copy_with(measured[0], tmp_path / "still", lambda row: {"phi_variance": 0.0, "phi_snr": "", "phi_bias": ""})
    page = make_page(tmp_path / "still")
    assert page.charts == []
    assert len(page.tables["estimators phi"]) == 1 + len(rows)


def test_the_page_says_where_evaluations_and_flop_name_different_best_estimators(measured, tmp_path):
    best_by = {"1": "flops", "4": "evaluations"}  # by K
    copy_with(measured[0], tmp_path / "copy", lambda row: {"phi_best_by": best_by[row["num_samples"]]})
    sentence = "The best by FLOP is reparam (K=1, 1 evaluation of f); the best by evaluations is reparam (K=4, 4"
    assert sentence in make_page(tmp_path / "copy").text
    assert "The best by FLOP" not in measured[1].text


@pytest.mark.parametrize(
    ("judge_by", "judged"), [("evaluations", "evaluations"), ("<b>evil</b>", "FLOP"), ([], "FLOP")]
)
def test_the_page_names_the_cost_that_decided(judge_by, judged, measured, tmp_path):
    """A configuration that somebody else wrote may name anything; then the cost is FLOP."""
    folder = tmp_path / "judged"
    shutil.copytree(measured[0], folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["judge_by"] == "flops"
    config["settings"]["judge_by"] = judge_by
    (folder / "config.json").write_text(json.dumps(config))
    if judged != "FLOP":
        text = (folder / "results.csv").read_text()
        (folder / "results.csv").write_text(text.replace("variance_x_flops", "variance_x_evaluations"))
    page = make_page(folder)
    assert f"phi: least variance × {judged}reparam" in page.text
    header = [text for text, _ in page.tables["estimators phi"][0]]
    assert f"variance × {judged}, to best" in header
    assert header[-2:] == [judged, "s"]
