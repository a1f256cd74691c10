"""The verdict of a comparison in words."""

import csv
import math

import pytest

from experiments.common import comparison, verdict
from experiments.common.comparison import Candidate, Choice, Comparison, Pair

SHARED = {"dataset": "digits", "binarization": "dynamic", "epochs": 10, "test_nll_nats": 1.0}
SHARED |= {"validation_elbo_nats": -1.0}


def choice(value, rates=(1e-3,), at_edge=(), diverged=0, **figures):
    rows = {seed: SHARED | {key: values[seed] for key, values in figures.items()} for seed in (0, 1)}
    candidates = [Candidate({"learning_rate": rate}, rows, diverged) for rate in rates]
    return Choice(value, None if diverged else candidates[0], candidates, list(at_edge))


def compared(choices, *pairs, difference=0.424, half_width=0.07, setting="estimator"):
    pairs = [Pair(better, worse, difference, half_width, 5, p, 12) for better, worse, p in pairs]
    return Comparison(setting, ["learning_rate"], "test_nll_nats", choices, pairs)


def test_the_answer_names_the_figure_its_direction_the_evidence_and_the_conditions():
    result = compared(
        [choice("reinmax"), choice("relax"), choice("disarm")],
        ("reinmax", "relax", 0.001),
        ("reinmax", "disarm", 0.01),
        ("relax", "disarm", 0.6),
    )
    assert verdict.answer(result) == (
        "reinmax* at learning_rate=0.001 has 0.42 nats lower test -log p(x) than relax at learning_rate=0.001"
        " (95 % interval 0.35 to 0.49, 5 paired seeds, Holm p 0.0010) and 0.42 nats lower than disarm at"
        " learning_rate=0.001 (95 % interval 0.35 to 0.49, 5 paired seeds, Holm p 0.010); relax and disarm are not told"
        " apart; digits, dynamic binarization, 10 epochs, 2 seeds, learning_rate chosen by the validation ELBO"
    )
    assert "ReinMax* at learning rate 0.001 has 0.42 nats lower" in verdict.answer(result, paper=True)
    assert "than DisARM at learning rate 0.001 (95 %" in verdict.answer(result, paper=True)


def test_a_bound_that_is_higher_is_better_and_values_of_other_settings_have_their_names():
    result = compared([choice("0.9"), choice("0.0")], ("0.9", "0.0", 0.01), setting="ema")
    text = verdict.answer(result._replace(figure="test_elbo_nats"))
    assert text.startswith("ema=0.9 at learning_rate=0.001 has 0.42 nats higher test ELBO than ema=0.0 at")


def test_the_conditions_are_those_that_all_runs_share():
    values = (
        choice("10", epochs=(10, 10), eval_samples=(500, 500)),
        choice("20", epochs=(20, 20), eval_samples=(500, 500)),
    )
    result = compared(values, setting="epochs")._replace(others=[])
    assert verdict.conditions(result) == "digits, dynamic binarization, 500 samples for -log p(x), 2 seeds"
    of_bound = result._replace(figure="test_elbo_nats")
    assert verdict.conditions(of_bound) == "digits, dynamic binarization, 2 seeds"
    del values[1].chosen.rows[1]
    assert verdict.conditions(of_bound).endswith("1 to 2 seeds")


def test_differences_beyond_the_third_are_summed_up():
    names = ["stl", "reparam", "nvil", "reinforce", "relax", "rebar"]
    clear = [("stl", name, 0.01) for name in names[1:]]
    result = compared([choice(name) for name in names], *clear)
    far = [pair._replace(difference=1.0 + i) for i, pair in enumerate(result.pairs)]
    text = verdict.answer(result._replace(pairs=far))
    assert text.count("95 % interval") == 3
    assert " and 4.00 to 5.00 nats lower than relax and rebar;" in text


def test_without_a_clear_best_the_answer_says_so():
    result = compared([choice("stl"), choice("reparam")], ("stl", "reparam", 0.3))
    assert verdict.answer(result).startswith(
        "stl at learning_rate=0.001 has the lowest mean test -log p(x), and is not told apart from reparam; digits,"
    )


def test_the_warnings_name_the_edge_of_the_grid_diverged_values_and_the_seeds_that_would_suffice():
    choices = [choice("stl", at_edge=["learning_rate"]), choice("reparam", rates=(1e-3, 1e-2)), choice("b", diverged=1)]
    result = compared(choices, ("stl", "reparam", 0.3))
    assert verdict.warnings(result) == [
        "b is not compared, because runs diverged, or have no finite figures, at all its settings",
        "stl is best at learning_rate=0.001, the edge of the grid; try values beyond it",
        "unequal numbers of candidates favour the value with more of them: stl 1 and reparam 2",
        "stl and reparam: to tell a difference of 0.42 nats apart in 80 % of sweeps would take about 12 seeds",
        "adding seeds to this sweep until a pair is told apart would exceed the level of 5 %; a new sweep of new seeds,"
        " judged alone, keeps it",
    ]


@pytest.mark.parametrize(
    ("difference", "half_width", "sentence"),
    [
        (0.0, 0.0, "stl and reparam are equal to within 0.01 nats"),
        (0.02, 0.021, "stl and reparam are equal to within 0.05 nats"),
        (0.02, 0.1, "stl and reparam differ by at most 0.12 nats, the far end of the interval"),
    ],
)
def test_no_seeds_are_counted_for_a_difference_that_matters_to_nobody(difference, half_width, sentence):
    pair = ("stl", "reparam", 0.4)
    result = compared([choice("stl"), choice("reparam")], pair, difference=difference, half_width=half_width)
    assert verdict.warnings(result) == [sentence]


def test_a_pair_with_one_common_seed_has_no_interval():
    [pair] = compared([], ("stl", "reparam", math.nan), half_width=math.nan).pairs
    result = compared([choice("stl"), choice("reparam")])._replace(pairs=[pair._replace(seeds=1)])
    assert verdict.warnings(result) == [
        "1 of 1 pairs have fewer than two common seeds and no interval; give --seed=0,1,2,3,4"
    ]
    assert verdict.pairs(result)[1][3:] == ["-", "1", "-", "-"]


def test_more_seeds_than_anybody_trains_are_not_counted():
    result = compared([choice("stl"), choice("reparam")], ("stl", "reparam", 0.9))
    line, _ = verdict.warnings(result._replace(pairs=[result.pairs[0]._replace(seeds_needed=None)]))
    assert line.endswith("apart in 80 % of sweeps would take more than 1000 seeds")


def test_curves_that_still_rise_by_more_than_a_standard_error_are_named():
    noisy = {"test_nll_nats": (1.0, 1.4)}  # the standard error of the mean is 0.2
    rising = choice("stl", late_gain_nats=(0.2, 0.3), **noisy)
    flat = choice("reparam", late_gain_nats=(0.1, 0.2), **noisy)
    single = Candidate({}, {0: SHARED | {"late_gain_nats": 5.0}}, 0)
    line, seeds = verdict.warnings(compared([rising, flat, Choice("nvil", single, [single], [])]))
    assert seeds.startswith("seeds are missing with nvil:")
    assert line.startswith(
        "training is not finished: in the last fifth of the epochs the ELBO rose by 0.25 nats with stl,"
    )


@pytest.mark.parametrize("figures", [{"test_rate_nats": (0.05, 0.1)}, {"active_units": (0, 1)}])
def test_values_that_hardly_use_their_latent_variables_are_named(figures):
    used = choice("stl", test_rate_nats=(0.1, 0.2), active_units=(1, 1))
    [line] = verdict.warnings(compared([used, choice("nvil", **figures)]))
    assert line.startswith("the latent variables are hardly used with nvil:")


def test_unequal_costs_of_a_step_are_named():
    costs = lambda value, evaluations: choice(value, step_evaluations=(evaluations, evaluations))
    line = "a training step has different costs, in evaluations of f for an image: relax 4 and disarm 2"
    assert verdict.warnings(compared([costs("relax", 4.0), costs("disarm", 2.0)])) == [
        f"{line}; --budget=evaluations:N buys each its own K"
    ]
    [of_another_setting] = verdict.warnings(compared([costs("4", 4.0), costs("2", 2.0)], setting="num_samples"))
    assert of_another_setting.endswith("num_samples=4 4 and num_samples=2 2")
    assert verdict.warnings(compared([costs("relax", 2.0), costs("disarm", 2.0)])) == []


def test_figures_that_a_run_lacks_give_no_warning():
    part = choice("stl", late_gain_nats=(5.0, 5.0), test_rate_nats=(0.0, 0.0))
    part.chosen.rows[1] = SHARED
    assert verdict.warnings(compared([part])) == []


def test_the_table_has_the_values_that_were_chosen_and_validation_only_if_all_runs_have_it():
    result = compared([choice("stl"), choice("b", diverged=1)])
    assert verdict.table(result) == [
        ["estimator", "learning_rate", "seeds", "validation ELBO", "-log p(x)"],
        ["stl", "0.001", "2", "-1.00 ± 0.00", "1.00 ± 0.00"],
    ]
    del result.choices[0].chosen.rows[1]["validation_elbo_nats"]
    assert verdict.table(result)[0][2:] == ["seeds", "-log p(x)"]


def test_the_late_gain_is_the_rise_of_the_elbo_over_the_last_fifth_of_the_epochs():
    evaluations = [{"epoch": epoch, "elbo_nats": -30.0 + 0.5 * epoch} for epoch in (1, 3, 7, 8, 9, 10)]
    gain = lambda evaluations: comparison.with_context({}, evaluations, {}).get("late_gain_nats")
    assert gain(evaluations) == gain([*evaluations, {"epoch": 11, "elbo_nats": math.nan}]) == 1.0
    assert gain(evaluations[-1:]) is None


def test_runs_of_different_versions_of_the_code_are_named():
    """One version trained seed 0; another version trained seed 1, or continued it."""
    first, second = {"code": "4f112808b18d5754"}, {"code": "b18d57544f112808"}
    for later, version in ((second, "b18d5754"), (first | {"continued": [second]}, "4f112808, then b18d5754")):
        named = choice("stl")
        for seed, record in enumerate((first, later)):
            named.chosen.rows[seed] = comparison.with_context(named.chosen.rows[seed], [], record)
        [line] = verdict.warnings(compared([named]))
        assert line.startswith(f"different versions of the code trained these runs (1 by 4f112808, 1 by {version};")
    named.chosen.rows[1] = named.chosen.rows[0]
    assert not verdict.warnings(compared([named]))


def test_the_files_hold_the_sentences_and_every_pair(tmp_path):
    result = compared([choice("reinmax"), choice("reparam")], ("reinmax", "reparam", 0.003))
    text = verdict.write(tmp_path, result)
    assert text == (tmp_path / "verdict.md").read_text()
    assert text.startswith("reinmax* at learning_rate=0.001 has 0.42 nats lower test -log p(x) than reparam at")
    assert "| reinmax * | reparam | 0.42             | 0.35 to 0.49  | 5     | 0.0030   | yes        |" in text
    assert "* marks estimators that are biased according to their papers." in text
    [row] = csv.DictReader((tmp_path / "verdict.csv").read_text().splitlines())
    assert (row["better"], row["difference"], row["told_apart"]) == ("reinmax", "0.424", "True")
    assert comparison.LEVEL == 0.05


def test_the_latex_tables_have_papers_names_and_captions_that_explain_every_number(tmp_path):
    verdict.write(tmp_path, compared([choice("reinmax"), choice("reparam")], ("reinmax", "reparam", 0.003)))
    chosen, pairs = (tmp_path / "verdict.tex").read_text().strip().split("\n\n")
    assert r"\caption{ReinMax$^*$ at learning rate 0.001 has 0.42 nats lower test $-\log p(x)$ than Reparam" in chosen
    assert (
        "digits, dynamic binarization, 10 epochs, 2 seeds, learning rate chosen by the validation ELBO. Bold: the"
        in chosen
    )
    assert r"ReinMax $^*$ & 0.001 & 2 & $-$1.00 $\pm$ 0.00 & \textbf{1.00 $\pm$ 0.00} \\" in chosen
    assert (
        r"\caption{Differences of the test $-\log p(x)$ between pairs; digits, dynamic binarization, 10 epochs" in pairs
    )
    assert r"\begin{tabular}{llrrrrr}" in pairs
    assert r"ReinMax $^*$ & Reparameterization & 0.42 & 0.35 to 0.49 & 5 & 0.0030 & yes \\" in pairs
    for part in (chosen, pairs):
        assert r"$^*$ marks estimators that are biased according to their papers." in part


def test_every_value_that_is_not_told_apart_from_the_best_is_bold():
    values = [choice(name) for name in ("stl", "reparam", "nvil")]
    told_apart, level = ("stl", "nvil", 0.01), ("stl", "reparam", 0.3)
    latex = verdict.to_latex(compared(values, level, told_apart, ("reparam", "nvil", 0.3)))
    assert [line.split(" & ")[0] for line in latex.splitlines() if "textbf" in line] == ["STL", "Reparameterization"]
    assert "Bold: the best value, and those that are not told apart from it." in latex
