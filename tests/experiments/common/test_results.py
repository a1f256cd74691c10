"""Tables of finished runs: their order, their names, and which of them cannot be told apart."""

import math

from experiments.common import results


def test_rows_within_two_standard_errors_of_the_best_are_level_with_it():
    """The standard error of the difference is 0.5 nats: 0.3 and 0.4 are legs of a 3-4-5 triangle."""
    row = lambda nll, error: {"test_nll_nats": nll, "test_nll_nats_se": error}
    best, near, far = row(100.0, 0.3), row(100.9, 0.4), row(101.1, 0.4)
    assert results.level_with_best([best, near, far]) == [near]
    assert results.level_with_best([row(100.0, math.nan), row(100.0, math.nan)]) == []  # one seed each


def test_nan_is_sorted_last():
    values = [math.nan, 2.0, math.inf, math.nan, -1.0]
    assert [str(value) for value in sorted(values, key=results.least_first)] == ["-1.0", "2.0", "inf", "nan", "nan"]


def test_a_label_has_the_settings_in_which_runs_differ():
    row = {"dataset": "digits", "estimator": "stl", "beta": 2.0}
    names = ([], ["estimator"], ["beta"], ["estimator", "beta"])
    assert [results.label(row, n) for n in names] == ["digits, stl", "stl", "beta=2.0", "stl, beta=2.0"]
