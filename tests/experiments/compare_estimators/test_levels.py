"""The measured levels of verdicts and intervals, which stand in the README of the laboratory."""

import pytest

from tests.helpers import levels


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1000, 10_000])
@pytest.mark.parametrize("name", list(levels.TOYS))
def test_verdicts_and_intervals_have_the_stated_levels(name, draws):
    """The limits are four standard errors from the stated level. Heavy tails cost the intervals up to 5 % more."""
    found = levels.measure(name, draws, repetitions=500 if draws == 1000 else 200, compared=200)
    assert found.different_of_2 < 0.05 + 4 * 0.016
    assert found.different_of_12 < 0.05 + 4 * 0.016
    assert found.biased < 1e-3
    has_heavy_tails = name in ("REINFORCE", "lognormal")
    lowest = 0.95 - 4 * 0.008 - (0.05 if has_heavy_tails else 0)
    assert found.variance > lowest
    assert found.snr > lowest
    assert found.bias > 0.95 - 4 * 0.008
