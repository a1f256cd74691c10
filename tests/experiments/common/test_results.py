"""Tables of finished runs: their order, their names, and which of them cannot be told apart."""

import math

import numpy as np
import pytest

from experiments.common import results
from experiments.common.settings import FIELDS, Settings


def _row(nll, error, runs):
    return {"test_nll_nats": nll, "test_nll_nats_se": error, "runs": runs, "diverged": 0}


def test_rows_that_welchs_test_cannot_tell_from_the_best_are_level_with_it():
    """The standard error of the difference is 0.5 nats: 0.3 and 0.4 are legs of a 3-4-5 triangle. Student's t is 2.0
    for 31 seeds each, and 2.87 for three, with Welch's 3.7 degrees of freedom."""
    for runs, limit in ((31, 2.0), (3, 2.87)):
        best, near, far = (
            _row(100 + d * 0.5, e, runs) for d, e in ((0, 0.3), (limit - 0.05, 0.4), (limit + 0.05, 0.4))
        )
        assert results.level_with_best([best, near]) == [near]
        assert results.level_with_best([best, far]) == []


def test_a_setting_with_one_seed_is_level_with_nothing():
    assert results.level_with_best([_row(100.0, math.nan, 1), _row(100.0, math.nan, 1)]) == []


@pytest.mark.parametrize("seeds", [3, 10])
def test_equal_settings_are_level_with_the_best_of_them(seeds):
    """Twelve equal settings. Two standard errors would leave some of them out almost always."""
    rng = np.random.default_rng(0)

    def some_are_left_out():
        figures = [results.mean_and_error(rng.normal(size=seeds).tolist()) for _ in range(12)]
        rows = sorted((_row(mean, error, seeds) for mean, error in figures), key=lambda row: row["test_nll_nats"])
        return len(results.level_with_best(rows)) < 11

    assert np.mean([some_are_left_out() for _ in range(100)]) < 0.12  # two standard errors above 5 %


def test_settings_with_equal_results_are_level():
    first, second = _row(100.0, 0.0, 3), _row(100.0, 0.0, 3)
    assert results.level_with_best([first, second]) == [second]
    assert results.level_with_best([first, _row(101.0, 0.0, 3)]) == []


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
    assert "resizebox" not in latex


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
