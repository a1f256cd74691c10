"""Tables of finished runs: their order and their names."""

import math

import pytest

from experiments.common import results
from experiments.common.settings import FIELDS, Settings


def test_nan_is_sorted_last():
    values = [math.nan, 2.0, math.inf, math.nan, -1.0]
    assert [str(value) for value in sorted(values, key=results.least_first)] == ["-1.0", "2.0", "inf", "nan", "nan"]


def test_a_label_has_the_settings_in_which_runs_differ():
    row = {"dataset": "digits", "estimator": "stl", "beta": 2.0}
    names = ([], ["estimator"], ["beta"], ["estimator", "beta"])
    assert [results.label(row, n) for n in names] == ["digits, stl", "stl", "beta=2.0", "stl, beta=2.0"]


def _finished(estimator, nll, seed=0, **settings):
    figures = {"test_nll_nats": nll, "test_elbo_nats": -nll - 1, "test_rate_nats": 5.0, "status": "done"}
    return Settings(estimator=estimator, seed=seed, **settings).json() | figures


def test_the_standard_error_of_a_mean_needs_finite_values_and_two_of_them():
    assert results.mean_and_error([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2))
    assert str(results.mean_and_error([3.0])) == "(3.0, nan)"
    assert str(results.mean_and_error([1.0, -math.inf])) == "(-inf, nan)"


def test_a_row_of_all_seeds_has_the_means_of_the_finished_runs_and_their_standard_errors():
    units, flops = (0, 0, 3), (1e6, 1e6, 4e6)
    rows = [
        _finished("stl", 10.0 + 2 * i, i) | {"active_units": units[i], "step_flops": flops[i], "ais_gap_nats": 0.0}
        for i in range(3)
    ]
    diverged = Settings(estimator="stl", seed=3).json() | {"status": "diverged", "step": 7}
    [row] = results.aggregate([*rows, diverged])
    assert (row["runs"], row["diverged"]) == (4, 1)
    assert (row["test_nll_nats"], row["test_nll_nats_se"]) == (12.0, pytest.approx(2 / math.sqrt(3)))
    assert (row["active_units"], row["active_units_se"]) == (1.0, 1.0)
    assert (row["ais_gap_nats"], row["step_flops"]) == (0.0, 2e6)


def test_settings_are_ranked_by_validation_or_by_a_test_figure_that_they_share():
    """stl has the best -log p(x), reparam the best ELBO, nvil the best validation bound; dreg always diverged."""
    figures = {"stl": (1.0, -3.0, -3.0), "reparam": (2.0, -1.0, -2.0), "nvil": (3.0, -2.0, -1.0)}
    names = ("test_nll_nats", "test_elbo_nats", "validation_elbo_nats")
    rows = [_finished(name, 0.0) | dict(zip(names, values, strict=True)) for name, values in figures.items()]
    diverged = Settings(estimator="dreg").json() | {"status": "diverged", "step": 7}
    order = lambda *rows: [row["estimator"] for row in results.aggregate([diverged, *rows])]
    assert order(*rows) == ["nvil", "reparam", "stl", "dreg"]
    del rows[1]["validation_elbo_nats"]
    assert order(*rows) == ["stl", "reparam", "nvil", "dreg"]
    rows[0]["eval_samples"] = 5000
    names = ["estimator", "eval_samples"]
    ranked = results.aggregate([diverged, *rows], names)
    assert [row["estimator"] for row in ranked] == ["reparam", "nvil", "stl", "dreg"]
    assert results.best(rows) == 1


def test_the_most_accurate_evaluation_is_the_last_of_those_with_the_most_samples():
    evaluations = [{"eval_samples": samples, "number": i} for i, samples in enumerate((500, 5000, 5000, 50))]
    assert results.most_accurate(evaluations)["number"] == 2


def test_the_seconds_of_evaluations_are_known_for_all_of_them_or_for_none():
    rows = [{"epoch": 1}, {"epoch": 3}]
    assert results.seconds_at(rows, {1: 0.5, 2: 1.0, 3: 1.5}) == [0.5, 1.5]
    assert results.seconds_at(rows, {1: 0.5, 2: 1.0}) is None
    assert results.seconds_at([], {1: 0.5}) is None


def test_blocks_are_biased_if_one_of_their_estimators_is():
    assert results.is_biased("reinmax:temperature=2.0+reparam")
    assert not results.is_biased("relax+reparam")


def test_the_heading_names_the_data():
    row = _finished("reparam", 100.0)
    assert results.heading([row]) == "digits, dynamic binarization, test set, nats per image: 1 run"
    assert results.heading([row | {"binarization": "none"}]).startswith("digits, no binarization, test set")


def test_a_table_has_the_chosen_columns_and_a_star_for_biased_estimators():
    rows = [_finished("reinmax", 10.0), _finished("relax", 12.0)]
    table = results.to_markdown(rows, ["test_nll_nats", "estimator", "batch_size"])
    assert table.splitlines()[0] == "| -log p(x) (K=500) | estimator | batch_size |"
    assert table.splitlines()[2:] == [
        "| 10.00             | reinmax * | 64         |",
        "| 12.00             | relax     | 64         |",
    ]


def test_latex_has_the_best_figures_in_bold_and_the_names_of_papers():
    rows = [_finished("gumbel_softmax:temperature=0.3", 12.0), _finished("relax", 10.0)]
    latex = results.to_latex(rows, ["estimator", "test_nll_nats", "test_elbo_nats", "test_rate_nats"])
    assert r"estimator & $-\log p(x)$ (K=500) & ELBO & rate \\" in latex
    assert r"RELAX & \textbf{10.00} & \textbf{$-$11.00} & 5.00 \\" in latex
    assert r"Gumbel-Softmax, temperature 0.3 $^*$ & 12.00 & $-$13.00 & 5.00 \\" in latex
    assert "$^*$ marks estimators that are biased according to their papers.}" in latex
    assert "$^*$" not in results.to_latex(rows[1:], ["estimator", "test_nll_nats"])
    assert "Bold: the best mean of a column." in latex
    assert "resizebox" not in latex


def test_the_best_figure_is_the_largest_bound_and_the_smallest_of_the_others():
    signs = {"validation_elbo_nats": 1, "test_nll_nats": -1, "test_elbo_nats": 1, "test_bits_per_dim": -1}
    signs |= {"ema_test_nll_nats": -1, "ema_test_elbo_nats": 1}
    better, worse = ({name: value * sign for name, sign in signs.items()} for value in (2.0, 1.0))
    rows = [_finished("stl", 0.0) | better, _finished("nvil", 0.0) | worse]
    lines = results.to_latex(rows, ["estimator", *signs]).splitlines()
    count = lambda name: next(line.count("textbf") for line in lines if line.startswith(name))
    assert (count("STL"), count("NVIL")) == (6, 0)


def test_the_title_of_log_p_has_k_if_all_runs_share_it():
    rows = [_finished("stl", 1.0), _finished("nvil", 2.0) | {"eval_samples": 5000}]
    title = lambda rows: results.to_markdown(rows, ["test_nll_nats"]).splitlines()[0]
    assert (title(rows[:1]), title(rows)) == ("| -log p(x) (K=500) |", "| -log p(x) |")


def test_bits_have_three_digits():
    row = {"test_bits_per_dim": 4.3216, "test_bits_per_dim_se": 0.0012, "test_nll_nats": 80.123}
    cells = [results.cell(row, name) for name in ("test_bits_per_dim", "test_nll_nats")]
    assert cells == ["4.322 ± 0.001", "80.12"]


def test_a_column_that_does_not_exist_is_refused():
    results.check_columns(["estimator", "runs", "validation_elbo_nats", "active_units"])
    with pytest.raises(ValueError, match="--columns=nll: there is no such column; choose settings or runs, diverged"):
        results.check_columns(["nll"])


def test_a_column_is_refused_if_a_mean_over_seeds_has_none():
    with pytest.raises(ValueError, match="--columns=seed: .* mean over seeds, so it has no seed"):
        results.check_columns(["estimator", "seed"])
    [row] = results._means([_finished("reparam", 10.0, seed) for seed in (0, 1)])
    assert set(FIELDS) - set(row) == {"seed"}
    results.check_columns([name for name in FIELDS if name != "seed"])
