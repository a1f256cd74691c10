"""The commands in the section "How to repeat it" make the same runs."""

import dataclasses

from absl import flags

from experiments.common import setting_flags, workdirs
from experiments.common.settings import Settings
from experiments.report import reproduce
from tests.helpers.written_workdirs import write_sweep


def test_the_commands_have_the_settings_of_the_runs(tmp_path):
    """All combinations of some values have one command; other sets of runs have several."""
    grid = [Settings(seed=s, data_mean=p, hidden=h) for s in (0, 1) for p in (False, True) for h in ((), (8, 4))]
    for wanted, number in ((grid, 1), (grid[:3], 2)):
        folder = tmp_path / str(number)
        write_sweep(folder, [(dataclasses.asdict(one), 0.0) for one in wanted], finished=False)
        lines = reproduce.commands(workdirs.read([folder]).runs)
        assert len(lines) == number
        repeated = []
        for line in lines:
            values = flags.FlagValues()
            setting_flags.define_flags(values)
            values(line.split()[2:])
            repeated += setting_flags.from_flags(values)
        assert set(repeated) == set(wanted)
