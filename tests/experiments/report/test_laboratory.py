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


def test_the_charts_and_the_note_of_a_sweep_are_those_of_its_last_point(measured, tmp_path):
    """At the first point, other estimators are best, and all figures are others."""

    def changes(row):
        is_last, k = float(row["cost_parameter"]) == 3.0, row["num_samples"]
        estimator = "stl" if (is_last, k) == (True, "4") else "reparam"
        verdict = "worse" if (is_last, k) == (True, "1") else "best"
        figures = {"variance": 7.0, "snr": 2.0, "bias": 0.1} if is_last else {"variance": 3.0, "snr": 9.0, "bias": 0.5}
        figures |= {"bias_stderr": 0.02, "max_abs_z": 1.5, "verdict": verdict}
        figures["best_by"] = "flops" if is_last == (k == "1") else "evaluations"
        own = {"estimator": estimator, "flops": 50.0, "seconds": 0.25}
        return own | {f"phi_{name}": value for name, value in figures.items()}

    copy_with(measured[0], tmp_path / "copy", changes)
    page = make_page(tmp_path / "copy")

    series = [[trace for trace in chart["data"] if "name" in trace] for chart in page.charts]  # no guides
    drawn = [[value for trace in traces for value in trace["y"]] for traces in series]
    assert drawn[0] == [7, 7]
    assert [value for trace in series[1] for value in trace["x"]] == [10, 10]
    assert drawn[2] == [2, 2]
    assert sorted(drawn[3]) == [3, 3, 7, 7]
    assert "phi cost_parameter 3" in page.text
    assert "phi: least variance × FLOPreparam (2 of 3), stl (1 of 3)" in page.text
    notes = page.text.split("The best by FLOP is ")[1:]
    assert [note.split(" If")[0] for note in notes] == [
        "reparam (K=1, 1 evaluation of f); the best by evaluations is stl (K=4, 4 evaluations of f)."
    ]
    header, *lines = ([text for text, _ in line] for line in page.tables["estimators phi"])
    cells = [dict(zip(header, line, strict=True)) for line in lines]
    assert [line["bias along truth (%)"] for line in cells] == ["50.0 ± 2.0"] * 2 + ["10.0 ± 2.0"] * 2
    assert {(line["max |z|"], line["FLOP"], line["s"]) for line in cells} == {("1.5", "50.0", "0.250")}
    assert "400 gradients of each estimator, truth: exact (closed form); 95 % intervals." in page.text


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
