"""Rows of measured gradients: intervals of times and products, groups of comparable estimators, and warnings."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common import measuring, problems
from experiments.common.candidates import Case
from experiments.common.measuring import Protocol
from experiments.common.task import Task
from experiments.compare_estimators import rows
from experiments.compare_estimators.measure_all import Result
from vae import diagnostics


@pytest.mark.parametrize(("cases", "quantiles"), [(1, 4.3027 / 1.95996), (3, 7.6488 / 2.39398)])
def test_medians_of_three_rounds_are_widened_to_students_t_at_the_level_of_one_pair(cases, quantiles):
    """The quantiles of Student's t with 2 degrees of freedom and of the normal distribution, at 5 % and at 5 % / 3. The
    times are 1, e and e^2, so the logarithm of a resampled median is 0, 1 or 2."""
    protocol = SimpleNamespace(replicates=200, confidence=0.95)
    times = rows._resampled_medians(np.tile(np.exp([2.0, 0.0, 1.0]), (cases, 1)), protocol)
    assert [time.median for time in times] == [pytest.approx(math.e)] * cases
    width = quantiles * math.sqrt(3 / 2)
    logarithms = np.unique(np.log(times[0].replicates).round(6))
    np.testing.assert_allclose(logarithms, [1 - width, 1, 1 + width], rtol=1e-4)


def test_the_widths_of_the_two_intervals_of_a_product_add_up_as_squares_on_the_logarithmic_scale():
    row = {"variance": 4.0, "variance_low": 2.0, "variance_high": 16.0}
    costs = {"flops": 3.0, "seconds": 3.0, "seconds_low": 1.5, "seconds_high": 6.0}
    assert rows._product(row, "variance", costs, "flops") == pytest.approx(
        {"variance_x_flops": 12.0, "variance_x_flops_low": 6.0, "variance_x_flops_high": 48.0}
    )
    low, high = 2 ** -math.sqrt(2), 2 ** math.sqrt(5)
    assert rows._product(row, "variance", costs, "seconds") == pytest.approx(
        {"variance_x_seconds": 12.0, "variance_x_seconds_low": 12 * low, "variance_x_seconds_high": 12 * high}
    )
    exact = dict.fromkeys(row, 0.0)
    assert set(rows._product(exact, "variance", costs, "seconds").values()) == {0.0}


@pytest.mark.parametrize(
    ("estimator", "temperature", "biased"),
    [("gumbel_softmax:temperature=0.3", 0.3, True), ("gumbel_softmax", 0.5, True), ("leave_one_out", 0.0, False)],
)
def test_a_row_has_the_temperature_of_a_relaxation_and_says_whether_its_paper_calls_it_biased(
    estimator, temperature, biased
):
    task = SimpleNamespace(problem=problems.make("coins")._replace(point={"target": 0.3}))
    result = SimpleNamespace(task=task, case=SimpleNamespace(estimator=estimator, num_samples=4), source="exact")
    assert rows._head(result) == {
        "problem": "coins",
        "target": 0.3,
        "estimator": estimator,
        "temperature": temperature,
        "num_samples": 4,
        "declared_biased": biased,
        "truth": "exact",
    }


def test_the_rounding_of_an_exact_gradient_is_no_variance_and_times_have_intervals():
    task, case = Task(problems.make("coins"), "elbo"), Case("exact", 1, 0, 1, 8.0)
    protocol = Protocol(100, 100, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    figures, by_chunk = measuring.measure(task, case, protocol, diagnostics.exactly(task.problem.oracle("elbo", 1)))
    figures["phi"]["variance"] = 1e-14 * figures["phi"]["norm"] ** 2
    result = Result(task, case, "exact", measuring.Measurement(figures, by_chunk))
    seconds = np.exp(np.random.default_rng(0).normal(size=(1, 9)))
    [row] = rows.make_rows([result], [case], seconds, protocol).results
    for figure in ("variance", "variance_x_flops", "variance_x_seconds"):
        assert [row[f"phi_{figure}{end}"] for end in ("_low", "", "_high")] == [0.0, 0.0, 0.0]
    [time] = rows._resampled_medians(seconds, protocol)
    ends = np.quantile(time.replicates, [0.025, 0.975])
    np.testing.assert_allclose(
        [row["seconds_low"], row["seconds"], row["seconds_high"]], [ends[0], time.median, ends[1]]
    )


def test_estimators_are_compared_at_the_same_point_and_place_in_num_samples():
    def entrant(point, slot):
        task = SimpleNamespace(problem=SimpleNamespace(point={"target": point}))
        return SimpleNamespace(result=SimpleNamespace(task=task, case=SimpleNamespace(slot=slot)))

    entrants = [entrant(point, slot) for _ in range(2) for point in (0.3, 0.4) for slot in (0, 1)]
    assert rows._slots(entrants) == [[entrants[i], entrants[i + 4]] for i in range(4)]


@pytest.mark.parametrize(
    ("error", "variance", "words"),
    [
        (0.1, 1.0, []),
        (0.2, 1.0, ["is itself uncertain by 20 %"]),
        (math.nan, 1.0, ["is itself uncertain by more than its length"]),
        (0.0, math.nan, ["stl has no verdict: some draws of its gradient of phi at target=0.3 are not finite"]),
    ],
)
def test_a_noisy_reference_and_a_gradient_that_is_not_finite_are_named(error, variance, words):
    result = SimpleNamespace(
        task=SimpleNamespace(problem=SimpleNamespace(point={"target": 0.3})),
        case=SimpleNamespace(estimator="stl"),
        source="mean of 100 draws",
        figures={"phi": {"variance": variance, "norm": 1.0, "mean_norm": 1.0}},
    )
    warnings = rows._warnings(result, "phi", {"truth_relative_stderr": error, "variance": variance})
    assert [text in warning for text, warning in zip(words, warnings, strict=True)] == [True] * len(words)
