"""Numbers in tables."""

import math
from pathlib import Path

import pytest

from experiments.common import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1234"), (0.01234, "0.0123"), (1.5e-7, "1.50e-7"), (2.5e9, "2.50e9"), (float("nan"), "-")],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_errors_decide_the_digits():
    assert tables.plus_minus(1.23456, 0.0234) == "1.235 ± 0.023"
    assert tables.plus_minus(-123.4, 23.4) == "-123 ± 23"
    assert tables.plus_minus(22.5123456789, 1.2e-7) == "22.51234568 ± 1.2e-7"
    assert tables.plus_minus(1.23456e-5, 3.4e-8) == "1.2346e-5 ± 3.4e-8"
    assert tables.plus_minus(1234567890.0, 123456.0) == "1.23457e9 ± 1.2e5"
    assert tables.plus_minus(0.0, 1.2e-7) == "0 ± 1.2e-7"
    assert tables.plus_minus(0.1, 1e-20) == "0.1000000000000000 ± 1.0e-20"


def test_a_value_without_an_error_stands_alone():
    assert tables.plus_minus(1.23456, math.nan) == "1.23"
    assert tables.plus_minus(math.nan, 0.1) == tables.plus_minus(math.nan, math.nan) == "-"


def test_a_number_stands_with_its_interval():
    row = {"snr": 1.0, "snr_low": 0.5, "snr_high": 2.0, "cosine": 0.25}
    assert tables.with_interval(row, "snr") == "1.00 [0.500, 2.00]"
    assert tables.with_interval(row, "cosine") == "0.250"
    assert tables.with_interval(row, "variance") == "-"


def test_latex_prints_every_character_as_it_is():
    latex = tables.to_latex([["a_b & c", "50 %"], ["$1 {x}", "#2 ± 3"]], caption="d_e")
    assert r"a\_b \& c & 50 \% \\" in latex
    assert r"\$1 \{x\} & \#2 $\pm$ 3 \\" in latex
    assert r"\caption{d\_e}" in latex
    latex = tables.to_latex([["k > 0.7", "a<b"], ["~/x^2", "C:\\d"]], caption="")
    assert r"k $>$ 0.7 & a$<$b \\" in latex
    assert r"\textasciitilde{}/x\textasciicircum{}2 & C:\textbackslash{}d \\" in latex


def test_latex_has_minus_signs_before_numbers_alone():
    latex = tables.to_latex([["name", "value"], ["top-2 of 8-4", "-0.5 to 1e-5"]], caption="", text_columns=2)
    assert r"top-2 of 8-4 & $-$0.5 to 1e-5 \\" in latex
    assert r"\begin{tabular}{ll}" in latex


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = [
        {"estimator": "nvil", "biased": True, "draws": 100, "variance": 0.1 + 0.2, "formula": "=1+1", "point": "a,b"},
        {"estimator": "arm", "biased": False, "draws": -3, "variance": math.inf, "formula": "-(2)", "point": "it's"},
    ]
    (tmp_path / "results.csv").write_text(tables.to_csv(rows), encoding="utf-8")
    assert tables.read_csv(tmp_path / "results.csv") == rows
    (tmp_path / "empty.csv").write_text(tables.to_csv([{"a": None, "b": math.nan, "c": 1}]), encoding="utf-8")
    [row] = tables.read_csv(tmp_path / "empty.csv")
    assert [math.isnan(row[key]) for key in "abc"] == [True, True, False]


def test_columns_of_texts_are_read_as_texts(tmp_path):
    rows = [{"commit": "12e4567", "control": "", "minutes": "10.50", "obtained": "-1 (2)"}]
    (tmp_path / "published.csv").write_text(tables.to_csv(rows), encoding="utf-8")
    assert tables.read_csv(tmp_path / "published.csv", texts=rows[0]) == rows


@pytest.mark.parametrize("content", [b"a,b\n1,2,3\n", b"a\n\xff\n"])
def test_a_file_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(ValueError, match="results.csv is not a table"):
        tables.read_csv(tmp_path / "results.csv")


def test_no_command_reads_tables_in_a_way_of_its_own():
    root = Path(tables.__file__).parents[2]
    sources = sorted(path for folder in ("experiments", "scripts") for path in (root / folder).rglob("*.py"))
    readers = [path for path in sources if "csv.DictReader" in path.read_text(encoding="utf-8")]
    readers = [path.relative_to(root).as_posix() for path in readers if "template" not in path.parts]
    assert readers == ["experiments/common/tables.py"]


def test_an_error_that_is_not_known_is_left_out():
    assert tables.with_error(1.234, 0.5, digits=2) == "1.23 ± 0.50"
    assert tables.with_error(1.234, math.nan, digits=1) == "1.2"
