"""The verdict of a comparison in words."""

import csv

from experiments.common import comparison, verdict
from experiments.common.comparison import Candidate, Choice, Comparison, Pair


def choice(value, rates=(1e-3,), at_edge=(), diverged=0):
    figures = {"test_nll_nats": 1.0, "validation_elbo_nats": -1.0}
    candidates = [Candidate({"learning_rate": rate}, {0: figures, 1: figures}, diverged) for rate in rates]
    return Choice(value, None if diverged else candidates[0], candidates, list(at_edge))


def compared(choices, *pairs):
    pairs = [Pair(better, worse, 0.424, 0.07, 5, p, 12) for better, worse, p in pairs]
    return Comparison("estimator", ["learning_rate"], "test_nll_nats", choices, pairs)


def test_the_answer_names_the_best_its_lead_and_what_is_not_told_apart():
    result = compared(
        [choice("reinmax"), choice("relax"), choice("disarm")],
        ("reinmax", "relax", 0.001),
        ("reinmax", "disarm", 0.01),
        ("relax", "disarm", 0.6),
    )
    assert verdict.answer(result) == (
        "reinmax ends 0.42 ± 0.07 nats above relax and 0.42 ± 0.07 nats above disarm;"
        " relax and disarm are not told apart"
    )


def test_without_a_clear_best_the_answer_says_so():
    result = compared([choice("stl"), choice("reparam")], ("stl", "reparam", 0.3))
    assert verdict.answer(result) == "stl has the best mean, and is not told apart from reparam"


def test_the_warnings_name_the_edge_of_the_grid_diverged_values_and_the_seeds_that_would_suffice():
    choices = [choice("stl", at_edge=["learning_rate"]), choice("reparam", rates=(1e-3, 1e-2)), choice("b", diverged=1)]
    result = compared(choices, ("stl", "reparam", 0.3))
    assert verdict.warnings(result) == [
        "b is not compared, because runs diverged with every other setting",
        "stl is best at learning_rate=0.001, the edge of the grid; try values beyond it",
        "unequal numbers of candidates favour the value with more of them: stl 1 and reparam 2",
        "stl and reparam: to tell a difference of 0.42 nats apart would take about 12 seeds",
    ]


def test_the_files_hold_the_sentences_and_every_pair(tmp_path):
    result = compared([choice("stl"), choice("reparam")], ("stl", "reparam", 0.003))
    text = verdict.write(tmp_path, result)
    assert text == (tmp_path / "verdict.md").read_text()
    assert text.startswith("stl ends 0.42 ± 0.07 nats above reparam\n")
    assert "| stl    | reparam | 0.42 ± 0.07      | 5     | 0.0030   | yes        |" in text
    [row] = csv.DictReader((tmp_path / "verdict.csv").read_text().splitlines())
    assert (row["better"], row["worse"], row["difference"], row["told_apart"]) == ("stl", "reparam", "0.424", "True")
    assert comparison.LEVEL == 0.05
