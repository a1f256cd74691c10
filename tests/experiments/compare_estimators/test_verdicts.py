"""What is called a bias, and what has no verdict."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import best_by_cost
from experiments.compare_estimators import rows
from experiments.compare_estimators.verdicts import Seconds, compare
from tests.helpers import levels
from tests.helpers.laboratory import read, run
from vae import diagnostics

OUT_OF_PLACE = """
import jax.numpy as jnp
from experiments.common import problems
from vae import distributions

def _bits(f):
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    phi = {"logits": jnp.array([0.3, -0.5])}
    cost = lambda params, z: jnp.sum(f(z), axis=-1)
    return problems.from_integrand("bits", {"phi": phi}, posterior, cost, log_q_weight=0.0)

def between_the_states():
    # f has no root between the states of the first bits, and is constant around the states of the others
    params = {"phi": {"logits": jnp.array([0.3, -0.5])}, "chi": {"logits": jnp.array([0.2, 0.1])}}
    posterior = lambda params: distributions.Bernoulli(jnp.concatenate([params[g]["logits"] for g in ("phi", "chi")]))
    f = lambda params, z: jnp.sum(z[..., :2] + jnp.sqrt(2 * (2 * z[..., :2] - 1) ** 2 - 1) + jnp.round(z[..., 2:]), -1)
    return problems.from_integrand("bits", params, posterior, f)

def nothing_to_learn():
    return _bits(lambda z: z**3 - z)
"""


def test_a_gradient_that_is_not_finite_or_always_zero_has_no_verdict(tmp_path, monkeypatch, capsys):
    """A relaxation evaluates f between the states, where it is not finite for some bits and constant for the others."""
    (tmp_path / "out_of_place.py").write_text(OUT_OF_PLACE)
    monkeypatch.chdir(tmp_path)
    estimators = "--estimators=gumbel_softmax,leave_one_out,reinforce"
    output = f"--output={tmp_path / 'out'}"
    run("--problem=out_of_place:between_the_states", estimators, "--draws=2000", "--rounds=3", output)
    relaxed, best, plain = read(tmp_path / "out" / "results.csv")
    assert relaxed["phi_verdict"] == "NOT FINITE"
    assert (best["phi_verdict"], plain["phi_verdict"]) == ("best", "worse")
    assert (relaxed["temperature"], best["temperature"]) == ("0.5", "0.0")
    said = capsys.readouterr().out
    assert "gumbel_softmax has no verdict: some draws of its gradient of phi are not finite" in said
    assert "leave_one_out: its gradient" not in said
    assert relaxed["chi_verdict"] == "BIASED, ALWAYS ZERO"
    assert (best["chi_verdict"], plain["chi_verdict"]) == ("best", "worse")
    assert relaxed["chi_variance_x_flops_to_best"] == ""
    assert "gumbel_softmax has no verdict: every draw of its gradient of chi is zero" in said
    assert "leave_one_out has no verdict" not in said
    assert "$^*$ is biased by its paper." in (tmp_path / "out" / "results.tex").read_text()
    pairs = [pair for pair in read(tmp_path / "out" / "pairs.csv") if "gumbel_softmax" in pair.values()]
    assert {pair["verdict"] for pair in pairs} == {"not told apart"}


def test_a_bias_is_seen_where_the_true_gradient_is_zero(tmp_path, monkeypatch, capsys):
    """f is 0 at every state, and its slope is not."""
    (tmp_path / "flat.py").write_text(OUT_OF_PLACE)
    monkeypatch.chdir(tmp_path)
    estimators = "--estimators=straight_through,leave_one_out"
    run("--problem=flat:nothing_to_learn", estimators, "--draws=2000", "--rounds=3", f"--output={tmp_path / 'out'}")
    straight, score = read(tmp_path / "out" / "results.csv")
    assert (straight["phi_biased"], score["phi_biased"]) == ("True", "False")
    assert "uncertain" not in capsys.readouterr().out


def test_the_verdicts_of_random_exact_and_broken_estimators():
    """Twenty chunks each. The second estimator has twice the variance of the first, the third 2 % more; the fourth is
    exact, and the fifth was once not finite."""
    noise = 1 + 0.1 * np.random.default_rng(0).normal(size=(3, 20))
    random = noise / noise.mean(axis=1, keepdims=True) * np.array([[1.0], [2.0], [1.02]])
    broken = np.where(np.arange(20) == 3, np.nan, 1.0)
    entrants = levels.compared(np.stack([*random, np.zeros(20), broken]), diagnostics.resampling(20, 500))
    verdicts = [entrant.row["phi_verdict"] for entrant in entrants]
    assert verdicts == ["best", "worse", "not told apart from best", "no variance", "NOT FINITE"]
    ratios = [entrant.row["phi_variance_x_flops_to_best"] for entrant in entrants]
    np.testing.assert_allclose(ratios, [1, 2, 1.02, 0, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "verdict"),
    [("declared_biased", "better"), ("phi_biased", "BIASED, lower variance x cost"), ("theta_biased", "better")],
)
def test_the_best_is_unbiased_by_measurement_in_all_groups_and_by_its_paper(column, verdict):
    """The first estimator has half of the variance of the others."""
    variances = np.array([[1.0], [2.0], [4.0]]) * (1 + 0.1 * np.random.default_rng(0).normal(size=(3, 20)))
    weights = diagnostics.resampling(20, 500)
    entrants = levels.compared(variances, weights)
    for entrant in entrants:
        entrant.row["theta_biased"] = False
    entrants[0].row[column] = True
    compare(entrants, "phi", weights, SimpleNamespace(confidence=0.95, judge_by="flops"))
    assert [entrant.row["phi_verdict"] for entrant in entrants] == [verdict, "best", "worse"]
    assert [entrant.row["phi_best_by"] for entrant in entrants] == ["none", "flops evaluations", "none"]


@pytest.mark.parametrize(("judge_by", "best"), [("evaluations", 0), ("flops", 1), ("seconds", 2)])
def test_the_cost_that_was_asked_for_decides(judge_by, best):
    """Three estimators with the same variance, each of which is the cheapest by one cost."""
    variances = 1 + 0.1 * np.random.default_rng(0).normal(size=(3, 20))
    costs = {"evaluations": [1, 8, 8], "flops": [8.0, 1.0, 8.0], "seconds": [8.0, 8.0, 1.0]}
    entrants = levels.compared(variances, diagnostics.resampling(20, 500), judge_by, costs)
    verdicts = [entrant.row["phi_verdict"] for entrant in entrants]
    assert [verdict == "best" for verdict in verdicts] == [i == best for i in range(3)]
    assert verdicts.count("worse") == 2
    ratios = [entrant.row[f"phi_variance_x_{judge_by}_to_best"] for entrant in entrants]
    np.testing.assert_allclose(sorted(ratios), [1, 8, 8], rtol=0.2)


@pytest.mark.parametrize(
    ("flops", "verdict", "in_pairs"),
    [
        (1.00006, "within 1 % of best", "equal within 1 %"),
        (1.009, "within 1 % of best", "equal within 1 %"),
        (1.011, "worse", "first is better"),
    ],
)
def test_two_names_of_one_estimator_are_equal_unless_their_costs_differ_by_more_than_a_percent(
    flops, verdict, in_pairs
):
    """FLOP have no error, so the interval of the ratio excludes 1 in every case."""
    variances = np.tile(1 + 0.1 * np.random.default_rng(0).normal(size=20), (2, 1))
    costs = {"evaluations": [1, 1], "flops": [1.0, flops], "seconds": [1.0, 1.0]}
    weights = diagnostics.resampling(20, 500)
    entrants = levels.compared(variances, weights, costs=costs)
    pairs = compare(entrants, "phi", weights, SimpleNamespace(confidence=0.95, judge_by="flops"))
    low, high = (entrants[1].row[f"phi_variance_x_flops_to_best_{end}"] for end in ("low", "high"))
    assert 1 < low < flops < high
    assert entrants[1].row["phi_verdict"] == verdict
    assert [pair["verdict"] for pair in pairs if pair["figure"] == "variance_x_flops"] == [in_pairs]


def test_an_interval_is_equal_to_one_only_if_all_of_it_is_within_a_percent():
    assert diagnostics.is_equal(0.991, 1.01)
    assert diagnostics.is_equal(1 / 1.01, 1.0)
    assert not diagnostics.is_equal(0.99, 1.005)
    assert not diagnostics.is_equal(1.005, 1.02)
    assert not diagnostics.is_equal(np.nan, np.nan)


@pytest.mark.parametrize(
    ("evaluations", "best_by", "note"),
    [
        (
            29,
            ["flops", "evaluations"],
            "The best by FLOP is 0 (K=1, 29 evaluations of f); the best by evaluations is 1 (K",
        ),
        (1, ["flops evaluations", "none"], ""),
    ],
)
def test_a_note_says_where_evaluations_and_flop_name_different_best_estimators(evaluations, best_by, note):
    """The first estimator has a tenth of the variance at equal FLOP."""
    variances = np.array([[0.1], [1.0]]) * (1 + 0.1 * np.random.default_rng(0).normal(size=(2, 20)))
    costs = {"evaluations": [evaluations, 1], "flops": [1.0, 1.0], "seconds": [1.0, 1.0]}
    entrants = levels.compared(variances, diagnostics.resampling(20, 500), costs=costs)
    rows = [entrant.row | {"evaluations": n} for entrant, n in zip(entrants, costs["evaluations"], strict=True)]
    assert [row["phi_best_by"] for row in rows] == best_by
    assert best_by_cost.note(rows, "phi").startswith(note)
    assert bool(note) == bool(best_by_cost.note(rows, "phi"))


def test_a_cost_by_which_two_estimators_are_not_told_apart_names_no_other_best_estimator():
    """By evaluations the second estimator is a little better, within the error."""
    variances = 1 + 0.1 * np.random.default_rng(0).normal(size=(2, 20))
    variances *= np.array([[1.0], [0.99]]) / variances.mean(axis=1, keepdims=True)
    costs = {"evaluations": [1, 1], "flops": [1.0, 4.0], "seconds": [1.0, 1.0]}
    entrants = levels.compared(variances, diagnostics.resampling(20, 500), costs=costs)
    assert [entrant.row["phi_best_by"] for entrant in entrants] == ["flops evaluations", "none"]


def test_another_cost_names_another_best_estimator_by_the_variances_and_that_cost_alone():
    """By FLOP the first is better, 4 to 100; by evaluations the second, 1 to 8."""
    variances = np.array([[4.0], [1.0]]) * (1 + 0.1 * np.random.default_rng(0).normal(size=(2, 20)))
    costs = {"evaluations": [2, 1], "flops": [1.0, 100.0], "seconds": [1.0, 1.0]}
    weights = diagnostics.resampling(20, 500)
    entrants = levels.compared(variances, weights, costs=costs)
    assert [entrant.row["phi_best_by"] for entrant in entrants] == ["flops", "evaluations"]
    entrants[0].result.task.host_calls.names = ("simulator",)  # its FLOP are not counted
    compare(entrants, "phi", weights, SimpleNamespace(confidence=0.95, judge_by="evaluations"))
    assert [entrant.row["phi_best_by"] for entrant in entrants] == ["none", "evaluations"]


def test_a_cost_that_differs_by_less_than_a_percent_names_no_other_best_estimator():
    variances = np.tile(1 + 0.1 * np.random.default_rng(0).normal(size=20), (2, 1))
    costs = {"evaluations": [1.005, 1.0], "flops": [1.0, 4.0], "seconds": [1.0, 1.0]}
    entrants = levels.compared(variances, diagnostics.resampling(20, 500), costs=costs)
    assert [entrant.row["phi_best_by"] for entrant in entrants] == ["flops evaluations", "none"]


def test_a_pair_names_the_better_one_only_if_the_interval_excludes_one():
    """The second has twice the variance of the first, the third 2 % more, and the fourth 2 % less."""
    noise = 1 + 0.1 * np.random.default_rng(0).normal(size=(4, 20))
    variances = noise / noise.mean(axis=1, keepdims=True) * np.array([[1.0], [2.0], [1.02], [0.98]])
    weights = diagnostics.resampling(20, 500)
    entrants = levels.compared(variances, weights)
    for number, entrant in enumerate(entrants):
        entrant.row["num_samples"] = 1 + number
    pairs = compare(entrants, "phi", weights, SimpleNamespace(confidence=0.95, judge_by="flops"))
    names = ("num_samples_first", "num_samples_second", "verdict")
    assert [tuple(pair[name] for name in names) for pair in pairs if pair["figure"] == "variance"] == [
        (1, 2, "first is better"),
        (1, 3, "not told apart"),
        (1, 4, "not told apart"),
        (2, 3, "second is better"),
        (2, 4, "second is better"),
        (3, 4, "not told apart"),
    ]
    best = entrants[3].row  # has no interval, because it is compared with itself
    assert np.isnan([best[f"phi_variance_x_flops_to_best_{end}"] for end in ("low", "high")]).all()


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "first is better"), (0.1, "not told apart")])
def test_noise_of_the_clock_widens_the_interval_of_variance_times_seconds(noise, verdict):
    variances = np.tile(1 + 0.1 * np.random.default_rng(0).normal(size=20), (2, 1))
    weights = diagnostics.resampling(20, 500)
    entrants = levels.compared(variances, weights, "seconds")
    replicates = 1.05 * np.exp(noise * np.random.default_rng(1).normal(size=500))
    entrants[1] = entrants[1]._replace(seconds=Seconds(1.05, replicates))
    pairs = compare(entrants, "phi", weights, SimpleNamespace(confidence=0.95, judge_by="seconds"))
    assert [pair["verdict"] for pair in pairs if pair["figure"] == "variance_x_seconds"] == [verdict]


# No coordinate deviates from the truth by more than chance allows.
NO_COORDINATE = {"max_abs_z": 1.0, "critical_z": 4.0, "deviation": 1.0}


def test_few_chunks_need_a_longer_deviation():
    """For Student's t, 5 is too little for 0.01 % with 9 degrees of freedom, and enough with 49."""
    row = {
        "bias": 0.055,
        "bias_stderr": 0.01,
        "bias_skewness": 0.0,
        "max_abs_z": 1.0,
        "critical_z": 4.0,
        "deviation": 1,
    }
    assert not diagnostics.is_biased(row, chunks=10)
    assert diagnostics.is_biased(row, chunks=50)


def test_a_skewed_mean_needs_a_longer_deviation():
    """If large draws are missing, the mean and its standard error are both too small."""
    row = {
        "bias": -0.08,
        "bias_stderr": 0.01,
        "bias_skewness": 0.3,
        "max_abs_z": 1.0,
        "critical_z": 4.0,
        "deviation": 1,
    }
    assert not diagnostics.is_biased(row, chunks=50)
    assert diagnostics.is_biased(row | {"bias": 0.08}, chunks=50)
    assert diagnostics.is_biased(row | {"bias": -0.3}, chunks=50)


def test_a_bias_is_of_the_whole_gradient_and_not_of_a_rare_event():
    """Coordinates of mean 1 jump once in 300 draws. The worst of them looks certain of a wrong mean, because it has not
    jumped often enough. The controls are off in every coordinate, and along the truth."""

    def draw(key, shift=0.0):
        key_event, key_noise = jax.random.split(key)
        jumps = jnp.where(jax.random.uniform(key_event, (400,)) < 1 / 300, 30.0, 0.0) - 0.1
        return {"a": jnp.concatenate([1 + shift + jumps, 1 + 3 * jax.random.normal(key_noise, (400,))])}

    truth = diagnostics.exactly({"a": np.ones(800)})

    def row(gradient):
        moments = lambda key: diagnostics.gradient_moments(gradient, key, 400, 20, 20, truth)
        figures = jax.jit(lambda key: diagnostics.report(moments(key), truth)["a"])(jax.random.key(0))
        return diagnostics.bias_figures({name: float(figure) for name, figure in figures.items()}, 400, 20)

    rare = row(draw)
    zero_mean = row(lambda key: {"a": draw(key)["a"] + 0.5 * (-1.0) ** jnp.arange(800)})
    assert rare["max_abs_z"] > rare["critical_z"]
    assert not rare["biased"]
    assert zero_mean["biased"]
    assert row(lambda key: draw(key, 0.3))["biased"]


@pytest.mark.parametrize("snr", [0.0, 0.01, 0.1])
def test_the_interval_of_a_small_snr_covers(snr):
    """1000 draws of 100 coordinates. The mean of pure noise has an SNR of 0.025, not of 0."""
    draws = snr + np.random.default_rng(0).normal(size=(20, 50, 20, 100))  # [repetitions, chunks, draws, coordinates]
    snr_by_chunk = lambda draws: diagnostics.figures_by_chunk(levels.moments_of(draws))["phi"]["snr"]
    by_chunk = jax.device_get(jax.jit(jax.vmap(snr_by_chunk))(np.float32(draws)))
    weights = diagnostics.resampling(50, 500)
    ends = [diagnostics.figure_interval("snr", row, weights, draws=1000, confidence=0.95) for row in by_chunk]
    assert np.mean([low <= snr <= high for low, high in ends]) >= 0.85  # a binomial of 20 and 0.95 is below in 0.3 %


@pytest.mark.parametrize("rounds", [3, 9])
def test_equal_times_are_rarely_told_apart(rounds):
    """Twelve equal estimators with 5 % of noise in their times and well-known variances."""
    rng = np.random.default_rng(0)
    protocol = SimpleNamespace(replicates=500, confidence=0.95)
    weights = diagnostics.resampling(50, 500)

    def some_differ():
        times = rows._resampled_medians(np.exp(0.05 * rng.normal(size=(12, rounds))), protocol)
        variances = 1 + 1e-3 * rng.normal(size=(12, 50))
        medians = np.array([time.median for time in times])
        replicates = np.stack([time.replicates for time in times])
        ratios = diagnostics.compare_all(variances, weights, 0.95, medians, replicates)
        return np.any((ratios.low > 1) | (ratios.high < 1))

    assert np.mean([some_differ() for _ in range(40)]) < 0.15  # 5 % and three standard errors
