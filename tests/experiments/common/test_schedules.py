"""The table of learning-rate schedules."""

import numpy as np
import pytest
from absl import flags

from experiments.common import build, schedules, setting_flags
from experiments.common.settings import Settings


def parse(*argv: str) -> list[Settings]:
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *argv])
    return setting_flags.from_flags(values)


def test_the_stages_are_the_papers():
    """arXiv:1509.00519, section 5: 3^i passes at 1e-3 * 10^(-i / 7), i = 0 to 7, which are 3280 passes."""
    rate = schedules.stages()(1e-3, steps=5 * 3280, steps_per_epoch=5)
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280
    for epoch in (0, 1, 3, 4, 12, 13, 1092, 1093, 3279):
        for step in (5 * epoch, 5 * epoch + 4):
            assert rate(step) == pytest.approx(expected[epoch], rel=1e-5)


def test_a_cosine_and_a_line_fall_from_the_peak_to_zero_at_the_end():
    at = np.arange(81)
    cosine, line = (make()(0.1, steps=80, steps_per_epoch=10)(at) for make in (schedules.cosine, schedules.linear))
    np.testing.assert_allclose(cosine, 0.05 * (1 + np.cos(np.pi * at / 80)), atol=1e-7)
    np.testing.assert_allclose(line, 0.1 * (1 - at / 80), atol=1e-7)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "stages"])
def test_a_warm_up_rises_to_the_peak_before_the_schedule_of_the_epochs_that_are_left(name):
    schedule = schedules.SCHEDULES.make(name, warmup=1.5)(0.1, steps=80, steps_per_epoch=10)
    later = schedules.SCHEDULES.make(name)(0.1, steps=65, steps_per_epoch=10)
    later = later if callable(later) else lambda step: 0.1
    np.testing.assert_allclose(schedule(np.arange(15)), 0.1 * np.arange(15) / 15, rtol=1e-6)
    expected = [later(step) for step in range(65)]
    np.testing.assert_allclose(schedule(np.arange(15, 80)), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--schedule=cosine:warmup=-1", "--schedule=cosine:warmup=-1.0: warmup must be at least 0, got -1.0"),
        ("--schedule=linear:warmup=200", "--schedule: warmup=200 leaves no step of --epochs=200"),
        ("--schedule=sine", "there is no schedule 'sine'"),
    ],
)
def test_a_wrong_schedule_is_refused_in_a_sentence(argument, sentence):
    make = lambda: [build.optimizer(run, build.arrays(run), steps_per_epoch=10) for run in parse(argument)]
    with pytest.raises((ValueError, flags.IllegalFlagValueError), match=sentence):
        make()
