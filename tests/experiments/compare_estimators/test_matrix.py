"""The matrix of --problem=all."""

import math

import numpy as np
import pytest

from experiments.common import plots, tables
from experiments.compare_estimators import __main__ as compare_estimators
from experiments.compare_estimators import matrix, picture
from tests.helpers.laboratory import read, run
from tests.helpers.wrong_files import unknown_names

SMALL = ["--problem=all", "--estimators=reparam,leave_one_out,straight_through", "--draws=100", "--rounds=3"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two problems, of which the second one was measured after the first command was killed."""
    folder = tmp_path_factory.mktemp("matrix")
    compare, save = compare_estimators.compare, plots.save
    begun = []

    def is_killed_on_the_second_problem(options, run):
        begun.append(options.problem)
        if len(begun) == 2:
            raise KeyboardInterrupt
        compare(options, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "PROBLEMS", ("cosine", "coins"))
        patch.setattr(compare_estimators, "compare", is_killed_on_the_second_problem)
        # test_command.py looks at pictures of a problem; here they are only drawn.
        patch.setattr(plots, "save", lambda figure, path: save(figure, path) if path.name == "matrix" else [])
        with pytest.raises(KeyboardInterrupt):
            run(*SMALL, f"--output={folder}")
        store = folder / "cosine" / "store"
        first = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
        assert not (folder / "matrix.csv").exists()
        run(*SMALL, f"--output={folder}")
        assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == first  # it was not measured again
    return folder


def test_the_matrix_has_a_row_for_each_pair_that_fits(measured):
    rows = read(measured / "matrix.csv")
    assert [(row["problem"], row["estimator"]) for row in rows] == [
        ("cosine", "reparam"),
        ("cosine", "leave_one_out"),
        ("coins", "leave_one_out"),
        ("coins", "straight_through"),
    ]
    assert (measured / "figures" / "matrix.png").exists()


def test_the_matrix_has_the_figures_of_each_problem(measured):
    rows = {(row["problem"], row["estimator"]): row for row in read(measured / "matrix.csv")}
    for name in ("cosine", "coins"):
        for row in read(measured / name / "results.csv"):
            cell = rows[name, row["estimator"]]
            assert cell["verdict"] == row["phi_verdict"]
            assert float(cell["variance_x_flops"]) == pytest.approx(float(row["phi_variance_x_flops_to_best"]))
            assert cell["variance_x_flops_low"] == row["phi_variance_x_flops_to_best_low"]
            assert cell["biased"] == row["phi_biased"]
    pathwise, score = (rows["cosine", name] for name in ("reparam", "leave_one_out"))
    ratio = float(score["variance_x_evaluations"]) / float(score["variance_x_flops"])
    evaluations_per_flop = 2 / float(score["flops"]) * float(pathwise["flops"])
    assert ratio == pytest.approx(evaluations_per_flop, rel=1e-6)


def test_every_file_is_one_that_may_be_a_link_or_one_that_may_not(measured):
    assert unknown_names(measured / "cosine", measured / "coins") == set()
    assert unknown_names(measured) == {"cosine", "coins"}


def test_the_best_of_a_problem_is_unbiased_and_an_estimator_that_is_always_zero_has_no_rank():
    figures = ("bias", "bias_low", "bias_high", "max_abs_z", "relative_bias")
    shared = {"num_samples": 1, "evaluations": 2, "flops": 10.0, "declared_biased": False, "phi_biased": False}
    shared |= {f"phi_{name}": 0.0 for name in figures} | {"phi_verdict": "worse"}
    shared |= {f"phi_variance_x_flops_to_best_{end}": 0.9 for end in ("low", "high")}
    rows = [
        {"estimator": "reinmax", "phi_variance": 1.0, "declared_biased": True},
        {"estimator": "measured", "phi_variance": 1.5, "phi_biased": True},
        {"estimator": "disarm", "phi_variance": 2.0},
        {"estimator": "reinforce", "phi_variance": 4.0, "flops": 5.0},
        {"estimator": "straight_through", "phi_variance": 0.0, "phi_verdict": "BIASED, ALWAYS ZERO"},
    ]
    ratios = matrix.rows_of_problem([shared | row for row in rows], "coins", "phi", "flops")
    np.testing.assert_allclose([row["variance_x_flops"] for row in ratios], [0.5, 0.75, 1, 1, math.nan])
    np.testing.assert_allclose([row["variance_x_evaluations"] for row in ratios], [0.5, 0.75, 1, 2, math.nan])
    assert [row["biased"] for row in ratios] == [False, True, False, False, False]


@pytest.mark.parametrize("judge_by", ["flops", "evaluations", "seconds"])
def test_the_picture_shows_the_cost_that_decides(judge_by, measured):
    results = tables.read_csv(measured / "coins" / "results.csv")
    for row in results:  # those of the other costs are written where they decide
        row |= {f"phi_variance_x_{judge_by}_to_best_{end}": 1.0 for end in ("low", "high")}
    rows = matrix.rows_of_problem(results, "coins", "phi", judge_by)
    costs = [row["phi_variance"] * row[judge_by] for row in results]
    assert rows[1][f"variance_x_{judge_by}"] == pytest.approx(costs[1] / costs[0])  # the first is unbiased
    picture.draw(rows, judge_by)


def test_the_estimators_stand_in_the_order_of_the_table():
    rows = [{"estimator": name} for name in ("disarm", "gumbel_rao:inner_samples=3", "reparam", "disarm")]
    assert picture.order(rows) == ["reparam", "gumbel_rao:inner_samples=3", "disarm"]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.0, "1.0"), (0.362, "0.36"), (9.96, "10"), (431, "431"), (5940, "5.9k"), (2.1e6, "2.1M"), (0.0, "exact")],
)
def test_a_cell_has_two_digits(ratio, text):
    assert picture._number(ratio) == text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--problem=all,coins"], "all is every problem; leave out the others"),
        (["--problem=all", "--objective=iwae"], "measures the first bound of each problem; leave out --objective"),
        (["--problem=all", "--num_samples=1,4"], "measures one K; give --num_samples one number"),
    ],
)
def test_flags_that_the_matrix_cannot_have_are_refused(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert sentence in capsys.readouterr().err
