"""The measured levels of verdicts and intervals, which stand in the README of the laboratory."""

import pytest

from tests.helpers import levels


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "repetitions"), [(100, 400), (10_000, 100)])
@pytest.mark.parametrize("name", list(levels.TOYS))
def test_verdicts_and_intervals_have_the_stated_levels(name, draws, repetitions):
    """The limits are four standard errors from the stated level, and 2 % more where few draws have heavy tails."""
    found = levels.measure(name, draws, repetitions, compared=repetitions)
    error = (0.05 * 0.95 / repetitions) ** 0.5
    assert max(found.different_of_2, found.different_of_12) < 0.05 + 4 * error
    assert max(found.biased, found.biased_by_reference) < 2e-3
    lowest = 0.95 - 4 * error - (0.02 if (name, draws) == ("REINFORCE", 100) else 0)
    assert min(found.variance, found.snr, found.bias, found.bias_by_reference) > lowest
