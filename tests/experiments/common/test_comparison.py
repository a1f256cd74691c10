"""Comparisons of sweeps, with rows whose answers are known."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.common import comparison, verdict
from tests.helpers.sweep_levels import CASES, DEFAULTS, Case, row, share_of_false_verdicts, simulated_sweep


def diverged(estimator, seed, rate=1e-3):
    """A row of a run that diverged."""
    return DEFAULTS | {"estimator": estimator, "seed": seed, "learning_rate": rate, "status": "diverged"}


def test_paired_differences_have_the_interval_and_the_p_value_of_scipys_t_test():
    differences = np.random.default_rng(0).normal(0.3, 1.0, 7)
    mean, half_width, p_value = comparison.paired_t(differences.tolist())
    expected = stats.ttest_1samp(differences, 0.0)
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose([mean - half_width, mean + half_width, p_value], [low, high, expected.pvalue], rtol=1e-9)


def test_holm_multiplies_the_smallest_p_value_by_the_number_of_pairs():
    # Holm (1979): 0.01 * 3, then 0.03 * 2, then at least as much.
    assert comparison.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert comparison.holm([0.6, math.nan, 0.9])[::2] == [1.0, 1.0]


def test_a_pair_is_told_apart_at_five_percent():
    pair = comparison.Pair("a", "b", difference=1.0, half_width=0.5, seeds=3, p_value=0.049, seeds_needed=None)
    assert pair.is_told_apart
    assert not pair._replace(p_value=0.051).is_told_apart
    assert not pair._replace(p_value=math.nan).is_told_apart


def test_each_value_is_compared_at_the_setting_that_validation_chose():
    # "b" is better on the test set at 1e-2, where validation does not choose it.
    rows = [row("a", seed, 10 + 0.01 * seed) for seed in range(4)]
    rows += [row("a", seed, 12 + 0.02 * seed, rate=1e-2) for seed in range(4)]
    rows += [row("b", seed, 11 + 0.012 * seed) for seed in range(4)]
    rows += [row("b", seed, 9 + 0.01 * seed, rate=1e-2, validation=-20.0) for seed in range(4)]
    result = comparison.compare(rows, "estimator")
    assert [(one.value, one.chosen.settings["learning_rate"]) for one in result.choices] == [("a", 1e-3), ("b", 1e-3)]
    [pair] = result.pairs
    assert (pair.better, pair.worse, pair.seeds) == ("a", "b", 4)
    assert pair.difference == pytest.approx(1.003)
    assert pair.is_told_apart
    assert [one.at_edge for one in result.choices] == [["learning_rate"]] * 2


@pytest.mark.parametrize(("best", "at_edge"), [(1e-4, ["learning_rate"]), (1e-3, []), (1e-2, ["learning_rate"])])
def test_a_choice_is_at_the_edge_of_its_grid_if_it_is_the_least_or_the_largest(best, at_edge):
    rows = [
        row(name, seed, 10.0 + (rate != best) + 0.1 * seed, rate=rate, num_samples=num_samples, data_mean=True)
        for name, num_samples in (("a", 1), ("b", 8))  # the only value of each, so at no edge
        for rate in (1e-4, 1e-3, 1e-2)
        for seed in range(2)
    ]
    rows += [one | {"data_mean": False, "test_nll_nats": 11.0, "validation_elbo_nats": -11.0} for one in rows]
    assert [one.at_edge for one in comparison.compare(rows, "estimator").choices] == [at_edge] * 2


def test_a_candidate_with_a_diverged_run_is_not_chosen():
    rows = [row(name, seed, 10 + seed) for name in "ab" for seed in range(3)]
    rows += [row(name, seed, 5, rate=1e-2) for name in "ab" for seed in range(2)]
    rows += [diverged(name, 2, rate=1e-2) for name in "ab"]
    result = comparison.compare(rows, "estimator")
    assert {one.chosen.settings["learning_rate"] for one in result.choices} == {1e-3}


def test_a_candidate_with_fewer_seeds_than_another_is_not_chosen():
    rows = [row(name, seed, 10 + seed) for name in "ab" for seed in range(3)]
    rows += [row(name, seed, 5 + seed, rate=1e-2) for name in "ab" for seed in range(2)]
    result = comparison.compare(rows, "estimator")
    assert [one.chosen.settings["learning_rate"] for one in result.choices] == [1e-3] * 2


def test_values_that_are_not_told_apart_stand_in_the_order_of_their_means():
    # "a" has the best median, and the best of the candidates that validation does not choose.
    rows = [row(name, seed, 18 + "abc".index(name), rate=1e-2) for name in "abc" for seed in range(3)]
    losses = {"a": [11, 15, 13], "b": [14, 8, 14], "c": [8, 16, 13.5]}
    rows += [row(name, seed, loss) for name, values in losses.items() for seed, loss in enumerate(values)]
    result = comparison.compare(rows, "estimator")
    assert not any(pair.is_told_apart for pair in result.pairs)
    assert [one.value for one in result.choices] == ["b", "c", "a"]


def test_a_value_that_is_worse_by_chance_over_common_seeds_keeps_the_place_of_its_mean():
    """a is 0.25 nats worse on the common seeds, and alone has a seed that is easy."""
    rows = [row("a", seed, loss) for seed, loss in enumerate([12.0, 11.0, 1.0])]
    rows += [row("b", seed, loss) for seed, loss in enumerate([10.0, 12.5])]
    result = comparison.compare(rows, "estimator")
    assert [(pair.better, pair.difference, pair.is_told_apart) for pair in result.pairs] == [("b", 0.25, False)]
    assert [one.value for one in result.choices] == ["a", "b"]


def test_a_value_that_its_pairs_show_to_be_worse_is_not_called_best():
    """b is 0.2 nats better on each common seed, and lacks the seed that is easy for both."""
    shared = [0.0, 1.0, 2.0, 3.0, -30.0]
    noise = [0.01, -0.02, 0.02, -0.01]
    rows = [row("a", seed, 20.0 + shared[seed]) for seed in range(5)]
    rows += [row("b", seed, 19.8 + shared[seed] + noise[seed]) for seed in range(4)]
    result = comparison.compare(rows, "estimator")
    assert [one.value for one in result.choices] == ["b", "a"]
    assert verdict.answer(result).startswith("b has 0.20 nats lower test -log p(x) than a (95 % interval 0.17 to 0.23")
    assert "seeds are missing with b: a mean is over a value's own seeds" in verdict.warnings(result)[0]
    [bold] = [line for line in verdict.to_latex(result).splitlines() if "textbf" in line]
    assert bold.startswith("b & 4 &")


@pytest.mark.parametrize("figure", ["test_nll_nats", "validation_elbo_nats"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_run_without_finite_figures_is_treated_as_a_diverged_one(figure, number):
    rows = [row(name, seed, 10.0 + seed) for name in "abc" for seed in range(3)]
    rows[-1][figure] = number
    result = comparison.compare(rows, "estimator")
    assert [one.value for one in result.choices if one.chosen] == ["a", "b"]
    assert verdict.warnings(result)[0].startswith("c is not compared, because runs diverged, or have no finite figures")


def test_equal_values_are_not_told_apart():
    rows = [row(name, seed, 10.0 + seed) for name in "ab" for seed in range(5)]
    [pair] = comparison.compare(rows, "estimator").pairs
    assert (pair.difference, pair.half_width, pair.p_value, pair.seeds_needed) == (0.0, 0.0, 1.0, None)


def test_a_difference_that_is_the_same_for_every_seed_is_certain():
    rows = [row(name, seed, 10.0 + seed + (name == "b")) for name in "ab" for seed in range(2)]
    [pair] = comparison.compare(rows, "estimator").pairs
    assert (pair.better, pair.difference, pair.half_width, pair.p_value) == ("a", 1.0, 0.0, 0.0)


def test_values_without_common_seeds_differ_by_their_means_and_have_no_interval():
    rows = [row("a", seed, 10.0 + seed) for seed in (0, 1)] + [row("b", seed, 5.0 + seed) for seed in (2, 4)]
    [pair] = comparison.compare(rows, "estimator").pairs
    assert (pair.better, pair.difference, pair.seeds, pair.seeds_needed) == ("b", 2.5, 0, None)
    assert np.isnan([pair.half_width, pair.p_value]).all()


def test_one_seed_gives_no_interval_and_nothing_is_told_apart():
    [pair] = comparison.compare([row("a", 0, 10.0), row("b", 0, 20.0)], "estimator").pairs
    assert math.isnan(pair.half_width)
    assert not pair.is_told_apart


def test_the_needed_seeds_tell_a_difference_apart_four_times_out_of_five():
    rng = np.random.default_rng(1)
    noise = rng.normal(0.0, 1.0, 4)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    rows = [row("a", seed, 10.0) for seed in range(4)] + [row("b", s, 11.0 + x) for s, x in enumerate(noise)]
    [pair] = comparison.compare(rows, "estimator").pairs
    assert not pair.is_told_apart
    assert pair.seeds_needed == 10  # statsmodels' TTestPower(effect 1, power 0.8) gives 9.94
    repeated = rng.normal(1.0, 1.0, (2000, pair.seeds_needed))
    power = np.mean([comparison.paired_t(list(one))[2] < comparison.LEVEL for one in repeated])
    assert 0.76 < power < 0.86


def test_the_needed_seeds_are_counted_at_the_level_that_one_of_several_pairs_has():
    """Each difference is one standard deviation: statsmodels' TTestPower gives 13.4 for the level 0.05 / 3.

    A value without common seeds has no p-values, and its pairs do not count.
    """
    noise = np.array([1.0, -1.0, 1.0, -1.0]) * math.sqrt(3) / 2
    losses = {"a": np.zeros(4), "b": 1 + noise, "c": 2 + 2 * noise}
    rows = [row(name, seed, 10 + loss) for name, values in losses.items() for seed, loss in enumerate(values)]
    pairs = comparison.compare([*rows, row("d", 9, 13.0)], "estimator").pairs
    assert [pair.seeds_needed for pair in pairs if pair.seeds] == [14, 14, 14]
    alone = stats.ttest_1samp(1 + noise, 0.0).pvalue
    np.testing.assert_allclose([pair.p_value for pair in pairs if pair.seeds], 3 * alone)


@pytest.mark.parametrize(
    ("setting", "rows", "sentence"),
    [
        (
            "estimatr",
            [row("a", 0, 1.0), row("b", 0, 1.0)],
            "no such setting; choose one of the swept settings: estimator",
        ),
        ("batch_size", [row("a", 0, 1.0), row("b", 0, 1.0)], "needs runs with several values of batch_size"),
        ("seed", [row("a", 0, 1.0), row("a", 1, 1.0)], "seeds are averaged, not compared; choose another setting"),
        ("dataset", [row("a", 0, 1.0), row("a", 0, 1.0, dataset="mnist")], "bounds on other data or with another"),
        ("estimator", [row("a", 0, 1.0), row("b", 0, 1.0, dataset="mnist")], "needs runs on the same data"),
        ("estimator", [row("a", 0, 1.0), row("b", 0, 1.0, validation_size=9)], "data, but validation_size differs"),
        ("estimator", [row("a", 0, 1.0), diverged("b", 0)], "whose runs did not diverge"),
        (
            "estimator",
            [row(name, 0, 1.0, workdir=workdir) for name in "ab" for workdir in "xy"],
            "several runs have the same settings and seed; give one workdir, or choose --compare=workdir",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(setting, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison.compare(rows, setting)


def test_workdirs_with_the_same_runs_can_be_compared():
    rows = [row("a", seed, 10.0 + seed + (workdir == "y"), workdir=workdir) for seed in range(2) for workdir in "xy"]
    [pair] = comparison.compare(rows, "workdir").pairs
    assert (pair.better, pair.worse, pair.difference, pair.seeds) == ("x", "y", 1.0, 2)


def test_runs_with_different_k_of_log_p_are_compared_by_their_elbo():
    """The seeds of a candidate are in two workdirs, and were evaluated with different K."""
    rows = [
        row(name, seed, loss + seed, workdir=f"w{seed}", eval_samples=(500, 5000)[seed])
        for name, loss in (("a", 12.0), ("b", 10.0))
        for seed in range(2)
    ]
    result = comparison.compare(rows, "estimator")
    [pair] = result.pairs
    assert (result.figure, result.others) == ("test_elbo_nats", [])
    assert (pair.better, pair.difference, pair.seeds) == ("b", 2.0, 2)


def test_a_reader_compares_the_only_setting_that_varies_or_else_the_estimators():
    rates = lambda number: [row("a", 0, 1.0, rate=1e-3 * (1 + i)) for i in range(number)]
    assert comparison.default_setting(rates(50)) == "learning_rate"
    assert comparison.default_setting(rates(51)) is None
    assert comparison.default_setting([*rates(2), row("b", 0, 1.0)]) == "estimator"
    assert comparison.default_setting(rates(2) + [row("a", 0, 1.0, num_samples=8)]) is None


def test_a_choice_without_a_validation_split_is_refused():
    rows = [row(name, seed, 10.0, rate=rate) for name in "ab" for rate in (1e-3, 1e-2) for seed in range(2)]
    for one in rows:
        del one["validation_elbo_nats"]
    with pytest.raises(ValueError, match="no validation split.*--validation_size"):
        comparison.compare(rows, "estimator")
    alone = [one for one in rows if one["learning_rate"] == 1e-3]  # nothing to choose
    assert len(comparison.compare(alone, "estimator").pairs) == 1


def test_a_setting_that_goes_with_the_compared_one_needs_no_choice():
    rows = [row("a", s, 10 + s) for s in range(2)] + [row("b", s, 11 + s, num_samples=8) for s in range(2)]
    for one in rows:
        del one["validation_elbo_nats"]
    result = comparison.compare(rows, "estimator")
    assert result.others == []
    assert [choice.chosen.settings for choice in result.choices] == [{"num_samples": 1}, {"num_samples": 8}]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_equal_estimators_are_told_apart_in_at_most_five_percent_of_sweeps(seeds, case):
    repetitions = 1500
    limit = comparison.LEVEL + 3 * math.sqrt(comparison.LEVEL * (1 - comparison.LEVEL) / repetitions)
    assert share_of_false_verdicts(case, seeds, repetitions) < limit


@pytest.mark.slow
def test_without_holms_correction_equal_estimators_would_be_told_apart_more_often():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(500):
        rows = simulated_sweep(rng, CASES[0], seeds=5)
        choices = comparison.compare(rows, "estimator").choices
        alone = [
            comparison._compare_pair(a, b, "test_nll_nats").p_value for i, a in enumerate(choices) for b in choices[:i]
        ]
        wrong += min(alone) < comparison.LEVEL
    assert wrong / 500 > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_a_difference_covers_it_in_ninety_five_percent_of_sweeps(seeds):
    rng = np.random.default_rng(seeds)
    repetitions = 3000
    covered = 0
    for _ in range(repetitions):
        rows = simulated_sweep(rng, Case("equal", [1, 1]), seeds)
        for one in rows[:seeds]:
            one["test_nll_nats"] -= 0.5
        [pair] = comparison.compare(rows, "estimator").pairs
        difference = pair.difference if pair.better == "a" else -pair.difference
        covered += abs(difference - 0.5) < pair.half_width
    assert abs(covered / repetitions - 0.95) < 3 * math.sqrt(0.05 * 0.95 / repetitions)
